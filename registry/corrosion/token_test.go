package corrosion

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCharactersOfATokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for text, good := range map[string]bool{"!~": true, "a": true, " a\n": true, "a b": false, "a\x7fb": false, "é": false, " \n": false, "": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if tok, err := newToken("", path, nil); (err == nil) != good || good && tok.get() != strings.TrimSpace(text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A token file that cannot be used is told of once, and again when it could be
// used in between.
func TestBadTokenFileIsLoggedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	write("a\n")
	tok, err := newToken("", path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for round := 1; round <= 2; round++ {
		write("")
		for range 3 {
			if got := tok.get(); got != "a" {
				t.Errorf("the token is %q", got)
			}
		}
		if n := strings.Count(log.String(), "cannot be used"); n != round {
			t.Errorf("logged %d times, want %d", n, round)
		}
		write("a")
		tok.get()
	}
}
