package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// asMain in the environment makes this test binary be dnsd itself.
const asMain = "TEST_AS_DNSD"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

func TestHelpAndVersion(t *testing.T) {
	for _, flag := range []string{"--help", "-h"} {
		var out strings.Builder
		if err := run(t.Context(), []string{"--ttl", "wrong", flag}, environment(), &out, nil); err != nil || out.String() != helpText {
			t.Errorf("%s: %v %q", flag, err, out.String())
		}
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"--version"}, environment(), &out, nil); err != nil || !strings.HasPrefix(out.String(), "dnsd ") {
		t.Errorf("%v %q", err, out.String())
	}
}

func TestExitStatus(t *testing.T) {
	tests := []struct {
		name, args, want string
		status, lines    int
	}{
		{"unknown_command", "serve", `dnsd: unknown command "serve": write check, export or healthcheck, or no command to serve`, 2, 1},
		{"too_many_operands", "healthcheck now", `dnsd: unexpected argument "now"`, 2, 1},
		{"values_of_unknown_flags", "--colour red --size big", "dnsd: unknown flag --colour: dnsd --help lists them all\n", 2, 2},
		{"mistakes", "--ttl x --advertise y", "dnsd: --advertise y: it becomes", 2, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := run(t.Context(), strings.Fields(tt.args), environment(), nil, nil)
			var out strings.Builder
			if status := report(&out, err); status != tt.status || !strings.HasPrefix(out.String(), tt.want) {
				t.Errorf("%d %q, want %d %q", status, out.String(), tt.status, tt.want)
			}
			if n := strings.Count(out.String(), "\n"); n != tt.lines {
				t.Errorf("%d lines, want %d: %s", n, tt.lines, out.String())
			}
		})
	}
	var out strings.Builder
	if status := report(&out, errors.New("it broke")); status != 1 || out.String() != "dnsd: it broke\n" {
		t.Errorf("%d %q", status, out.String())
	}
	if status := report(&out, nil); status != 0 {
		t.Error(status)
	}
}
