package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// linkedVersion is set by the linker for a release:
// -ldflags "-X main.linkedVersion=1.2.3".
var linkedVersion string

// build is which dnsd this is. What the Go tool did not note, as with
// -buildvcs=false, is empty.
type build struct {
	version  string // of the release, or made of the revision
	revision string // the commit's first 12 digits
	date     string // of the commit, RFC 3339
	modified bool   // the work tree had more than the commit
	goTool   string // the version of Go
}

// thisBuild returns the build that runs.
func thisBuild() build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{GoVersion: runtime.Version()}
	}
	return newBuild(linkedVersion, info)
}

// newBuild reads what the Go tool has noted. A linked version wins.
func newBuild(linked string, info *debug.BuildInfo) build {
	b := build{goTool: info.GoVersion}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.revision = s.Value[:min(12, len(s.Value))]
		case "vcs.time":
			b.date = s.Value
		case "vcs.modified":
			b.modified = s.Value == "true"
		}
	}
	switch main := info.Main.Version; {
	case linked != "":
		b.version = linked
	case b.revision != "":
		b.version = "dev-" + b.revision
		if b.modified {
			b.version += "-modified"
		}
	case main != "" && main != "(devel)":
		b.version = main
	default:
		b.version = "dev"
	}
	return b
}

// String is what dnsd version prints: "1.2.3 (revision 0123456789ab of
// 2026-01-02T15:04:05Z, modified) go1.26.0".
func (b build) String() string {
	s := b.version
	if b.revision != "" {
		s += " (revision " + b.revision
		if b.date != "" {
			s += " of " + b.date
		}
		if b.modified {
			s += ", modified"
		}
		s += ")"
	}
	return s + " " + b.goTool
}

// labels are those of the metric that says which build this is.
func (b build) labels() prometheus.Labels {
	return prometheus.Labels{
		"version": b.version, "goversion": b.goTool,
		"revision": b.revision, "modified": fmt.Sprint(b.modified),
	}
}

// version returns the release, or what the Go tool knows of the build.
func version() string { return thisBuild().version }
