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
)

// TestReadme runs the command that README's first screen starts with, as it
// stands there, and then its dig lines, and compares every answer.
func TestReadme(t *testing.T) {
	if _, err := exec.LookPath("dig"); err != nil {
		t.Skip("needs dig (Debian: bind9-dnsutils)")
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(sh|console)\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 3 || blocks[0][1] != "sh" || blocks[1][1] != "console" || blocks[2][1] != "sh" {
		t.Fatal("README does not begin with a command, its answers and the test command")
	}
	if ci, err := os.ReadFile("../.ci/run"); err != nil || !strings.Contains(string(ci), strings.TrimSpace(blocks[2][2])) {
		t.Errorf("CI does not run README's test command %q (%v)", blocks[2][2], err)
	}

	// A port of its own, so that a dnsd that someone tries out is not in the way.
	const port = "5399"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dnsd := shell(ctx, strings.ReplaceAll(blocks[0][2], ":5300", ":"+port)+" --metrics-listen none")
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

	for _, example := range strings.Split(blocks[1][2], "$ ")[1:] {
		command, want, _ := strings.Cut(example, "\n")
		got, err := shell(ctx, strings.ReplaceAll(command, "-p 5300", "-p "+port)).Output()
		if err != nil {
			t.Errorf("%s: %v", command, err)
		}
		if got, want := sorted(got), sorted([]byte(want)); !slices.Equal(got, want) {
			t.Errorf("%s\ngives %q\nREADME says %q", command, got, want)
		}
	}
}

// TestLinks: what the documents point to within the project is there.
func TestLinks(t *testing.T) {
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/writers.md", "test/bench/README.md"} {
		text, err := os.ReadFile(filepath.Join("..", doc))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join("..", filepath.Dir(doc), link[1])); err != nil {
				t.Errorf("%s links to %s: %v", doc, link[1], err)
			}
		}
	}
}

// shell runs a command from the project's root.
func shell(ctx context.Context, command string) *exec.Cmd {
	c := exec.CommandContext(ctx, "sh", "-c", command)
	c.Dir = ".."
	return c
}

// sorted returns the lines in order, since addresses take turns.
func sorted(b []byte) []string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	slices.Sort(lines)
	return lines
}
