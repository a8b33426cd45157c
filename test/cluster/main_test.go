package cluster

import (
	"flag"
	"os"
	"testing"

	"dnsd/test/internal/lab"
)

func TestMain(m *testing.M) {
	// Most tests here wait for a silence to be noticed; more of them at once
	// than there are processors cost nothing.
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(lab.Main(m))
}
