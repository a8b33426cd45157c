package main

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestBuild(t *testing.T) {
	stamped := []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
		{Key: "vcs.time", Value: "2026-01-02T15:04:05Z"},
		{Key: "vcs.modified", Value: "false"},
	}
	modified := append(stamped[:2:2], debug.BuildSetting{Key: "vcs.modified", Value: "true"})
	tests := []struct {
		name, linked, main string
		settings           []debug.BuildSetting
		version, text      string
	}{
		{"release", "1.2.3", "(devel)", nil, "1.2.3", "1.2.3 go1.26.0"},
		{"release_with_a_stamp", "1.2.3", "v0.0.0-2026", stamped, "1.2.3", "1.2.3 (revision 0123456789ab of 2026-01-02T15:04:05Z) go1.26.0"},
		{"work_tree", "", "v0.0.0-2026", stamped, "dev-0123456789ab", "dev-0123456789ab (revision 0123456789ab of 2026-01-02T15:04:05Z) go1.26.0"},
		{"modified", "", "v0.0.0-2026+dirty", modified, "dev-0123456789ab-modified",
			"dev-0123456789ab-modified (revision 0123456789ab of 2026-01-02T15:04:05Z, modified) go1.26.0"},
		{"without_a_time", "", "", stamped[:1], "dev-0123456789ab", "dev-0123456789ab (revision 0123456789ab) go1.26.0"},
		{"installed", "", "v1.4.0", nil, "v1.4.0", "v1.4.0 go1.26.0"},
		{"without_a_stamp", "", "(devel)", nil, "dev", "dev go1.26.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBuild(tt.linked, &debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: tt.main}, Settings: tt.settings})
			if b.version != tt.version || b.String() != tt.text {
				t.Errorf("%q and %q, want %q and %q", b.version, b, tt.version, tt.text)
			}
			labels := b.labels()
			if labels["version"] != tt.version || labels["goversion"] != "go1.26.0" || labels["revision"] != b.revision ||
				labels["modified"] != map[bool]string{true: "true", false: "false"}[b.modified] {
				t.Errorf("labels %v of %q", labels, b)
			}
		})
	}
}

// The image's build links its version in, and that is the one that counts.
func TestLinkedVersion(t *testing.T) {
	if !strings.Contains(readProject(t, "Dockerfile"), "-X main.linkedVersion=") {
		t.Error("the Dockerfile links no version")
	}
	defer func(was string) { linkedVersion = was }(linkedVersion)
	linkedVersion = "9.8.7"
	if version() != "9.8.7" || thisBuild().labels()["version"] != "9.8.7" {
		t.Errorf("version %s of %s", version(), thisBuild())
	}
}
