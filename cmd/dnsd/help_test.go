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

// docs/flags.md has every flag with its default, in the order of the help text.
func TestFlagsPage(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| `--([a-z-]+)([^`]*)` \\| ([^|]*) \\|").FindAllStringSubmatch(readProject(t, "docs/flags.md"), -1)
	settings := new(config).settings()
	for i, s := range settings {
		if i >= len(rows) || rows[i][1] != s.name {
			t.Fatalf("row %d is not of --%s", i+1, s.name)
		}
		if def := "`" + s.def + "`"; s.def != "" && rows[i][3] != def || s.toggle && rows[i][3] != "off" {
			t.Errorf("--%s: the default is said to be %s", s.name, rows[i][3])
		}
		if strings.HasSuffix(rows[i][2], "…") != s.repeat {
			t.Errorf("--%s: whether it may be repeated is not so", s.name)
		}
	}
	if len(rows) != len(settings) {
		t.Errorf("%d rows for %d flags", len(rows), len(settings))
	}
}

// The help text and docs/flags.md show what each kind of source's URL looks like.
func TestSourcesAreShown(t *testing.T) {
	plain := strings.NewReplacer("H1:PORT,H2:PORT", "HOST:PORT,...", "/etc/dnsd/registry.json", "PATH")
	for name, text := range map[string]string{"help": helpText, "docs/flags.md": readProject(t, "docs/flags.md")} {
		for _, k := range sourceKinds {
			if !strings.Contains(plain.Replace(text), k.url) {
				t.Errorf("%s does not show %s", name, k.url)
			}
		}
	}
}
