package main

import (
	"errors"
	"flag"
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
	_ = flag.Set("test.parallel", "6") // most of what parallel tests do is wait
	goleak.VerifyTestMain(m)
}

func TestHelpAndVersion(t *testing.T) {
	for _, flag := range []string{"--help", "-h"} {
		var out strings.Builder
		if err := run(t.Context(), []string{"--ttl", "wrong", flag}, environment(), &out, nil); err != nil || out.String() != helpText {
			t.Errorf("%s: %v %q", flag, err, out.String())
		}
	}
	for _, args := range []string{"--version", "-V", "version", "version --listen nowhere"} {
		var out strings.Builder
		err := run(t.Context(), strings.Fields(args), environment("DNSD_TTL=wrong"), &out, nil)
		if err != nil || out.String() != "dnsd "+thisBuild().String()+"\n" {
			t.Errorf("%s: %v %q", args, err, out.String())
		}
	}
}

func TestExitStatus(t *testing.T) {
	tests := []struct {
		name, args, want string
		status, lines    int
	}{
		{"unknown_command", "serve", `dnsd: unknown command "serve": write check, export, healthcheck or version, or no command to serve`, 2, 1},
		{"too_many_operands", "healthcheck now", `dnsd: unexpected argument "now"`, 2, 1},
		{"healthcheck_of_two", "healthcheck live now", `dnsd: unexpected argument "live now"`, 2, 1},
		{"values_of_unknown_flags", "--colour red --size big", "dnsd: unknown flag --colour: dnsd --help lists them all\n", 2, 2},
		{"version_of_what", "version now", `dnsd: unexpected argument "now"`, 2, 1},
		// One mistake, one message.
		{"etcd_without_prefix", "--registry etcd://127.0.0.1:2379", "dnsd: --registry etcd://127.0.0.1:2379: the etcd URL", 2, 1},
		{"etcd_without_host", "--registry etcd:///x/", "dnsd: --registry etcd:///x/: ", 2, 1},
		{"corrosion_without_port", "--registry corrosion://localhost", "dnsd: --registry corrosion://localhost: ", 2, 1},
		{"file_without_path", "--registry file:", "dnsd: --registry file:: no path", 2, 1},
		{"password_of_whom", "--registry etcd://127.0.0.1:2379/x/ --etcd-password-file main_test.go", "dnsd: --etcd-password-file is given but", 2, 1},
		{"certificate_without_key", "--registry etcd://127.0.0.1:2379/x/ --etcd-cert main_test.go", "dnsd: --etcd-cert and --etcd-key go", 2, 1},
		{"key_without_certificate", "--registry etcd://127.0.0.1:2379/x/ --etcd-key main_test.go", "dnsd: --etcd-cert and --etcd-key go", 2, 1},
		{"two_about_a_password", "--registry etcd://127.0.0.1:2379/x/ --etcd-password-file none", "dnsd: --etcd-password-file is given but", 2, 2},
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
