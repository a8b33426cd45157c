//go:build !(linux && (amd64 || arm64))

package fastpath

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
)

// Config configures a Path.
type Config struct {
	Devices []string
	Limit   int
	Log     *slog.Logger
}

// Path does not exist here.
type Path struct{ *Table }

// Open says that this system has no such thing.
func Open(Config) (*Path, error) { return nil, errors.New("only Linux on amd64 and arm64 can do that") }

// Run is never called.
func (*Path) Run(context.Context, []netip.AddrPort, func() bool) {}

// Answered is never called.
func (*Path) Answered() [Counters]uint64 { return [Counters]uint64{} }

// Describe is never called, as is Collect.
func (*Path) Describe(chan<- *prometheus.Desc) {}
func (*Path) Collect(chan<- prometheus.Metric) {}
