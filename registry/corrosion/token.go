package corrosion

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"dnsd/registry/regular"
)

// token is the bearer token that requests carry. Safe for concurrent use.
type token struct {
	path string // the file that holds it; empty: it never changes
	log  *slog.Logger

	mu    sync.Mutex
	text  string // the last good one; empty: none
	wrong bool   // the file cannot be used, and that was logged
}

// newToken returns the token of a file, or the given one if path is empty.
func newToken(text, path string, log *slog.Logger) (*token, error) {
	err := checkToken(text)
	if path != "" {
		text, err = readToken(path)
	}
	return &token{path: path, text: text, log: log}, err
}

// get returns the token. The file is read each time: requests are few, and the next
// one uses a renewed token. While the file cannot be used, as for a moment while it
// is replaced, get returns the last good token.
func (t *token) get() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" {
		return t.text
	}
	text, err := readToken(t.path)
	if err != nil {
		if !t.wrong {
			t.log.Warn("the corrosion token file cannot be used; keeping the last token", "err", err)
		}
		t.wrong = true
		return t.text
	}
	t.text, t.wrong = text, false
	return text
}

func readToken(path string) (string, error) {
	data, err := regular.Read(path, regular.MaxSettings)
	if err != nil {
		return "", fmt.Errorf("corrosion token file: %w", err)
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return "", fmt.Errorf("corrosion token file %s is empty", path)
	}
	return text, checkToken(text)
}

func checkToken(text string) error {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("the corrosion token holds a space, a line end or another character that no header can carry")
	}
	return nil
}
