package cluster

import (
	"os"
	"testing"

	"dnsd/test/internal/lab"
)

func TestMain(m *testing.M) {
	// Most tests here wait for a silence to be noticed: all of them at once, but
	// for the race detector, under which each costs several times as much.
	most := 24
	if lab.Race {
		most = 8
	}
	os.Exit(lab.MainOf(m, most))
}
