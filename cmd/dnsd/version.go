package main

import "runtime/debug"

// linkedVersion is set by the linker for a release:
// -ldflags "-X main.linkedVersion=1.2.3".
var linkedVersion string

// version returns the release, or what the Go tool knows of the build.
func version() string {
	if linkedVersion != "" {
		return linkedVersion
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "dev-" + s.Value[:12]
		}
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return "dev"
}
