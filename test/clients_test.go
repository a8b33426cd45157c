package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dnsd/test/internal/lab"
)

// TestClients lets real stub resolvers resolve names through dnsd, which is the
// only nameserver in their resolv.conf, as it is in a machine's.
func TestClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// The address that a WireGuard peer is told; asking it, the kernel picks it
	// as the source as well, so that these clients belong to network A.
	w.Lab.Bind(t, "/etc/resolv.conf", "nameserver fdaa:0:18::3\noptions timeout:10\n")
	w.Lab.Bind(t, "/etc/nsswitch.conf", "hosts: files dns\n")

	dir := t.TempDir()
	if err := lab.GoBuild(filepath.Join(dir, "lookup"), "./clients/lookup"); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, args ...string) (string, int) {
		t.Helper()
		cmd := exec.Command("clients/run.sh", args...)
		cmd.Env = append(os.Environ(), "CLIENTS_DIR="+dir)
		out, err := w.Lab.Output(cmd)
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if cmd.ProcessState.ExitCode() == 77 {
			lab.Skip(t, strings.TrimSpace(out))
		}
		return out, cmd.ProcessState.ExitCode()
	}
	for _, client := range []string{"dig", "kdig", "go", "node", "musl", "glibc"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			for _, name := range []string{"my-app.internal", "MY-APP.internal", "global.my-app.internal"} {
				// Each address once, and nothing else, although the client asks for A, too.
				out, code := run(t, client, name)
				got := strings.Fields(out)
				slices.Sort(got)
				if want := w.addresses("a", started); code != 0 || !slices.Equal(got, want) {
					t.Errorf("%s: exit code %d, got %q, want %q", name, code, got, want)
				}
			}
			for _, c := range []struct{ name, want string }{
				{"iad.my-app.internal", "148e21dad76789"},
				{"148e21dad76789.vm.my-app.internal", "148e21dad76789"},
				{"my-peer._peer.internal", "my-peer"},
				{"my-app.flycast", "fdaa:0:18:0:1::7"},
			} {
				out, code := run(t, client, c.name)
				if code != 0 || !slices.Equal(strings.Fields(out), w.addresses("a", c.want)) {
					t.Errorf("%s: exit code %d, got %q", c.name, code, out)
				}
			}
			for _, name := range []string{"no-app.internal", "idle.internal", "mixed-case.internal"} {
				if out, code := run(t, client, name); code == 0 && strings.TrimSpace(out) != "" {
					t.Errorf("%s: got %q, want nothing", name, out)
				}
			}
			if client == "musl" || client == "glibc" {
				return
			}
			for name, want := range map[string]string{
				"vms.my-app.internal":         "148e21dad76789 iad,4d89699c030518 ams,784ee20a6ed658 sjc",
				"all.regions.my-app.internal": "ams,fra,gru,iad,lhr,sjc,syd",
				"_peer.internal":              "laptop,my-peer,nowhere,remote",
			} {
				if out, code := run(t, client, name, "TXT"); code != 0 || strings.TrimSpace(out) != want {
					t.Errorf("%s TXT: exit code %d, got %q, want %q", name, code, out, want)
				}
			}
			// Clients treat an empty list as no answer.
			if out, code := run(t, client, "vms.idle.internal", "TXT"); code == 0 && strings.TrimSpace(out) != "" {
				t.Errorf("vms.idle TXT: got %q, want nothing", out)
			}
		})
	}
}
