package contain

import (
	"errors"
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
	if !errors.As(err, &bug) || !strings.Contains(bug.Place, "TestContain") || !strings.Contains(bug.Place, "contain_test.go:") ||
		!strings.Contains(err.Error(), "index out of range") || !strings.Contains(string(bug.Stack), "TestContain") {
		t.Errorf("a panic became %v", err)
	}
}
