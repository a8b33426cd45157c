package cluster

import (
	"flag"
	"os"
	"testing"

	"dnsd/test/internal/lab"
)

func TestMain(m *testing.M) {
	// Most tests here wait for a silence to be noticed: all of them at once, but
	// for the race detector, under which each costs several times as much.
	flag.Parse()
	most := "24"
	if lab.Race {
		most = "8"
	}
	if err := flag.Set("test.parallel", most); err != nil {
		panic(err)
	}
	os.Exit(lab.Main(m))
}
