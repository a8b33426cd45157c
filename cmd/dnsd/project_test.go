package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func readProject(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The settings that the image, the unit and the sidecar come with are accepted.
func TestDeployedSettings(t *testing.T) {
	files := map[string]*regexp.Regexp{
		"Dockerfile":            regexp.MustCompile(`(DNSD_\w+)=(\S+)`),
		"deploy/dnsd.service":   regexp.MustCompile(`(?m)^Environment=(DNSD_\w+)=(\S+)`),
		"deploy/fast-path.conf": regexp.MustCompile(`(?m)^Environment=(DNSD_\w+)=(\S+)`),
		"deploy/sidecar.yaml":   regexp.MustCompile(`- name: (DNSD_\w+)\s+value: "(.*)"`),
	}
	names := map[string]bool{}
	for _, s := range new(config).settings() {
		names[s.environment()] = true
	}
	for path, pattern := range files {
		found := pattern.FindAllStringSubmatch(readProject(t, path), -1)
		if len(found) == 0 {
			t.Errorf("%s: no setting was found", path)
		}
		var pairs []string
		for _, m := range found {
			if !names[m[1]] {
				t.Errorf("%s: %s is no setting", path, m[1])
			}
			pairs = append(pairs, m[1]+"="+m[2])
		}
		c, _, err := parseConfig(nil, environment(pairs...))
		if c.StateDir != "" {
			c.StateDir = t.TempDir() // theirs is there, not here
		}
		if err == nil {
			err = c.load(environment(pairs...))
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestExampleFleetIsGood(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"check", "../../examples/registry.json"}, environment(), &out, nil); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	want := "../../examples/registry.json: 6 apps, 13 machines, 3 peers, 3 addresses in 2 networks\n" +
		"  fdaa:0:18::/48: 4 apps, 10 machines, 2 peers, 1 address\n" +
		"  fdaa:0:99::/48: 2 apps, 3 machines, 1 peer, 2 addresses\n" +
		"  machines: 1 destroyed, 9 started, 2 stopped, 1 suspended\n"
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
}

// The flags of every dnsd command in README and the pages are accepted, and a
// check prints what the page says.
func TestCommandsOfPages(t *testing.T) {
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%v, %v", paths, err)
	}
	t.Chdir("../..")
	found := 0
	for _, path := range append(paths, "../../README.md") {
		path = strings.TrimPrefix(path, "../../")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^ *(?:\$ )?dnsd ((?:check )?[^|#\n>]*)\n((?:[^$`+"`"+`\n].*\n)*)`).FindAllStringSubmatch(string(text), -1) {
			found++
			args := strings.Fields(m[1])
			if args[0] == "check" {
				var out strings.Builder
				if err := run(t.Context(), args, environment(), &out, nil); err != nil || out.String() != m[2] {
					t.Errorf("%s: dnsd %s: %v\nprints %q\nwant   %q", path, m[1], err, out.String(), m[2])
				}
			} else if _, _, err := parseConfig(args, environment()); err != nil {
				t.Errorf("%s: dnsd %s: %v", path, m[1], err)
			}
		}
	}
	if found < 8 {
		t.Errorf("%d commands were found", found)
	}
}

// ARCHITECTURE says what each module is for that dnsd requires.
func TestRequirementsAreExplained(t *testing.T) {
	required, _, _ := strings.Cut(readProject(t, "go.mod"), ")")
	table := readProject(t, "ARCHITECTURE.md")
	found := regexp.MustCompile(`(?m)^\t(\S+) v`).FindAllStringSubmatch(required, -1)
	if len(found) < 5 {
		t.Fatalf("go.mod requires %v", found)
	}
	for _, m := range found {
		if path := strings.TrimPrefix(m[1], "go.etcd.io/etcd/"); !strings.Contains(table, path) && !strings.Contains(table, filepath.Base(path)) {
			t.Errorf("nothing is said of %s", m[1])
		}
	}
}
