package etcdtest

import (
	"os"
	"os/exec"
	"testing"
)

// Old returns the path of the etcd that the system has installed, on Debian 12
// that of package etcd-server, 3.4.23. Where there is none the test is skipped, or
// fails where DNSD_TEST_NO_SKIP is set.
func Old(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("etcd")
	if err == nil {
		return path
	}
	if os.Getenv("DNSD_TEST_NO_SKIP") != "" {
		t.Fatal("would be skipped: no etcd is installed: apt-get install etcd-server")
	}
	t.Skip("no etcd is installed: apt-get install etcd-server")
	return ""
}
