package chaos

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestPage: docs/failures.md promises what the run checks.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/failures.md")
	if err != nil {
		t.Fatal(err)
	}
	bounds := []time.Duration{usual, notice, quiet, startup, saving, leaderless, elected, recovery, holding}
	rows := regexp.MustCompile(`(?m)^\| (.*) \| (\d+s) \|$`).FindAllStringSubmatch(string(text), -1)
	if len(rows) != len(bounds) {
		t.Fatalf("%d bounds in the page, want %d", len(rows), len(bounds))
	}
	for _, figure := range []string{
		fmt.Sprintf("`--stale-after %v`", staleAfter), fmt.Sprintf("of %v, everything is mended", strings.Replace(round.String(), "s", " s", 1)),
		fmt.Sprintf("at most %d MiB more of memory", mayGrow>>20), fmt.Sprintf("written anew %v s later at most", emptied.Seconds()),
	} {
		if !strings.Contains(string(text), figure) {
			t.Errorf("the page does not say %q", figure)
		}
	}
	for i, row := range rows {
		if row[2] != bounds[i].String() && !(row[2] == "60s" && bounds[i] == time.Minute) {
			t.Errorf("%s: %s, want %v", row[1], row[2], bounds[i])
		}
	}
}
