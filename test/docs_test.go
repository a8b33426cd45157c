package test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"
)

// pages returns README and the pages of docs, by name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../docs/*.md")
	if err != nil || len(paths) < 5 {
		t.Fatalf("docs holds %v (%v)", paths, err)
	}
	texts := map[string]string{}
	for _, path := range append(paths, "../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[strings.TrimPrefix(path, "../")] = string(text)
	}
	return texts
}

// example is a command in a page, with what the page says that it prints.
type example struct{ page, command, prints string }

// examples returns the commands of all pages.
func examples(t *testing.T) (all []example) {
	t.Helper()
	for page, text := range pages(t) {
		for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(text, -1) {
			for _, e := range regexp.MustCompile(`(?m)^ *\$ `).Split(block[1], -1)[1:] {
				command, prints, _ := strings.Cut(e, "\n")
				all = append(all, example{page, command, prints})
			}
		}
	}
	return all
}

// Commands of the pages that are run by other tests, or change the host.
var elsewhere = regexp.MustCompile(`^(dnsd |install |systemctl |docker |ip -6 addr add |go build |/tmp/etcd-load |curl -s 127.0.0.1:9153/readyz)`)

// TestExamples runs the command that README's first screen starts with, as it
// stands there, and then every dig and curl of README and of the pages, and
// compares what they print.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"dig", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			lab.Skip(t, tool+" is missing (Debian: bind9-dnsutils, curl)")
		}
	}
	blocks := regexp.MustCompile("(?s)```(sh|console)\n(.*?)```").FindAllStringSubmatch(pages(t)["README.md"], -1)
	if len(blocks) < 3 || blocks[0][1] != "sh" || blocks[1][1] != "console" || blocks[2][1] != "sh" {
		t.Fatal("README does not begin with a command, its answers and the test command")
	}
	if ci, err := os.ReadFile("../.ci/run"); err != nil || !strings.Contains(string(ci), strings.TrimSpace(blocks[2][2])) {
		t.Errorf("CI does not run README's test command %q (%v)", blocks[2][2], err)
	}

	// Other ports, in case somebody is trying dnsd out on those.
	ports := strings.NewReplacer(":5300", ":5399", "-p 5300", "-p 5399", ":9153", ":9399")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dnsd := shell(ctx, ports.Replace(strings.TrimSpace(blocks[0][2]))+" --metrics-listen "+ports.Replace("127.0.0.1:9153"))
	dnsd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run and what it runs
	stderr, err := dnsd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dnsd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-dnsd.Process.Pid, syscall.SIGTERM)
		_ = dnsd.Wait()
	}()
	log := bufio.NewScanner(stderr)
	for listed := false; !listed; {
		if !log.Scan() {
			t.Fatalf("dnsd ended before it listed its registry: %v", log.Err())
		}
		listed = strings.Contains(log.Text(), "the registry is listed")
	}
	go func() { // until the pipe closes
		for log.Scan() {
		}
	}()

	run := map[string]int{}
	for _, e := range examples(t) {
		if elsewhere.MatchString(e.command) {
			continue
		}
		got, err := shell(ctx, ports.Replace(e.command)).Output()
		if err != nil {
			t.Errorf("%s: %s: %v", e.page, e.command, err)
		}
		if got, want := sorted(string(got)), sorted(e.prints); !slices.Equal(got, want) {
			t.Errorf("%s\nprints %q\n%s says %q", e.command, got, e.page, want)
		}
		run[e.page]++
	}
	if run["README.md"] < 6 || run["docs/names.md"] < 5 || run["docs/troubleshooting.md"] < 4 {
		t.Errorf("few commands were run: %v", run)
	}
}

// TestLinks: what the documents point to within the project is there.
func TestLinks(t *testing.T) {
	texts := pages(t)
	for _, path := range []string{"ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md", "test/bench/README.md"} {
		text, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	for doc, text := range texts {
		for _, link := range regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`).FindAllStringSubmatch(text, -1) {
			target := doc
			if link[1] != "" {
				target = filepath.Join(filepath.Dir(doc), link[1])
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s links to %s: %v", doc, link[1], err)
			} else if link[2] != "" && !slices.Contains(anchors(texts[target]), link[2]) {
				t.Errorf("%s links to %s, which has no heading %q", doc, target, link[2])
			}
		}
	}
}

// anchors returns what a page's headings are linked to by.
func anchors(page string) (found []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		found = append(found, strings.ReplaceAll(name, " ", "-"))
	}
	return found
}

// TestReadmeIsShort: five minutes to read.
func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(pages(t)["README.md"], "\n"); n > 120 {
		t.Errorf("README has %d lines, more than 120", n)
	}
}

// shell runs a command from the project's root.
func shell(ctx context.Context, command string) *exec.Cmd {
	c := exec.CommandContext(ctx, "sh", "-c", command)
	c.Dir = ".."
	return c
}

// sorted returns the lines in order, since addresses take turns.
func sorted(text string) []string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(lines)
	return lines
}
