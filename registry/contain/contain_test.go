package contain

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestContain(t *testing.T) {
	sentinel := errors.New("an error")
	if err := Run(func() error { return sentinel }); err != sentinel {
		t.Errorf("an error became %v", err)
	}
	var none []int
	var bug *Error
	err := Run(func() error { _ = none[3]; return nil })
	if !errors.As(err, &bug) || !strings.HasPrefix(bug.Place, "contain.TestContain") || !strings.Contains(bug.Place, ", contain_test.go:") ||
		!strings.Contains(err.Error(), "index out of range") || !strings.Contains(string(bug.Stack), "TestContain") {
		t.Errorf("a panic became %v", err)
	}
}

// Every panic is counted once, however often it is noted; the first at each place
// is logged.
func TestCounter(t *testing.T) {
	var log strings.Builder
	c := Counter{Log: slog.New(slog.NewTextHandler(&log, nil))}
	var here []error
	for range 2 {
		here = append(here, Run(func() error { panic("here") }))
	}
	there := Run(func() error { panic("there") })
	for _, err := range []error{nil, errors.New("an error"), here[0], here[0], fmt.Errorf("wrapped: %w", here[0]), there, here[1]} {
		c.Note(err)
	}
	if c.Count() != 3 {
		t.Errorf("%d panics counted, want 3", c.Count())
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || strings.Count(log.String(), "panic=here") != 1 || !strings.Contains(log.String(), "contain_test.go") {
		t.Errorf("%d lines, want one for each of two places:\n%s", n, log.String())
	}
}
