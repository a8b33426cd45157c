package handover

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dnsd/test/internal/lab"
)

// TestUnits: systemd takes the packaged units as they are, and has little to say
// against what they allow.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		lab.Skip(t, "needs systemd-analyze (Debian: systemd)")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "dnsd.service.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		"dnsd.service": "dnsd.service", "dnsd.socket": "dnsd.socket", "credentials.conf": "dnsd.service.d/credentials.conf", "fast-path.conf": "dnsd.service.d/fast-path.conf",
	} {
		text, err := os.ReadFile("../../deploy/" + from)
		if err != nil {
			t.Fatal(err)
		}
		// The program has to be there.
		text = []byte(strings.ReplaceAll(string(text), "=/usr/bin/dnsd", "=/bin/true"))
		if err := os.WriteFile(filepath.Join(dir, to), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	service, socket := filepath.Join(dir, "dnsd.service"), filepath.Join(dir, "dnsd.socket")
	analyze := func(args ...string) (string, error) {
		out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
		return string(out), err
	}
	if out, err := analyze("verify", "--man=no", service, socket); err != nil || out != "" {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if out, err := analyze("security", "--offline=true", "--threshold=20", service); err != nil { // of 100
		t.Errorf("security: %v\n%s", err, out)
	}
}
