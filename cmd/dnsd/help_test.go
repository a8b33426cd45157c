package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestHelpFitsAScreen(t *testing.T) {
	lines := strings.Split(strings.TrimSuffix(helpText, "\n"), "\n")
	if len(lines) > 34 {
		t.Errorf("%d lines are more than a screen", len(lines))
	}
	for _, line := range lines {
		if len(line) >= 80 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

// The help text names every flag and no other, and its defaults are true.
func TestHelpAgreesWithSettings(t *testing.T) {
	known := map[string]*setting{}
	for _, s := range new(config).settings() {
		known[s.name] = s
		if !regexp.MustCompile(`--` + s.name + `\b[^-]`).MatchString(helpText) {
			t.Errorf("--%s is missing", s.name)
		}
		if s.def != "" && !strings.Contains(helpText, s.def) {
			t.Errorf("--%s: its default %s is missing", s.name, s.def)
		}
		if strings.Contains(helpText, "--"+s.name+" ADDR...") && !s.repeat {
			t.Errorf("--%s is not repeatable", s.name)
		}
	}
	for _, m := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(helpText, -1) {
		if known[m[1]] == nil {
			t.Errorf("--%s is no flag", m[1])
		}
	}
}
