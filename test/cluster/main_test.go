package cluster

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"dnsd/test/internal/lab"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Most tests here wait for a silence to be noticed; more of them at once
	// than there are processors cost nothing.
	flag.Parse()
	if err := flag.Set("test.parallel", "24"); err != nil {
		panic(err)
	}
	code := lab.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
