package main

import (
	"context"
	"log/slog"
	"sync"

	"dnsd/resolver/fastpath"
)

// openKernel makes the kernel ready to answer, if that is asked for. Where it cannot be,
// the log says what is missing, and the sockets answer everything.
func openKernel(c *config, log *slog.Logger) *fastpath.Path {
	if len(c.FastPath) == 0 {
		return nil
	}
	p, err := fastpath.Open(fastpath.Config{Devices: c.FastPath, Limit: c.MaxUDPSize, Log: log})
	if err != nil {
		log.Warn("--fast-path is without effect: the sockets answer everything", "err", err)
		return nil
	}
	return p
}

// answerInKernel has the kernel answer while serve runs, until ctx ends. When it returns the
// kernel answers nothing any more.
func (d *daemon) answerInKernel(ctx context.Context, serve func(context.Context) error) error {
	if d.kernel == nil {
		return serve(ctx)
	}
	answering, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	last := d.follower.Round() - 1
	wg.Go(func() {
		d.kernel.Run(answering, d.resolver.Addresses(), func() bool {
			was := last
			last = d.follower.Round()
			return last != was
		})
	})
	return serve(ctx)
}
