package cluster

import (
	"fmt"
	"os"
	"testing"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/test/internal/lab"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	etcdtest.RunIfMember()
	code := lab.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
