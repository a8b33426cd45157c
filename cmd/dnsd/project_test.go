package main

import (
	"os"
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
		"Dockerfile":          regexp.MustCompile(`(DNSD_\w+)=(\S+)`),
		"deploy/dnsd.service": regexp.MustCompile(`(?m)^Environment=(DNSD_\w+)=(\S+)`),
		"deploy/sidecar.yaml": regexp.MustCompile(`- name: (DNSD_\w+)\s+value: "(.*)"`),
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
