package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"dnsd/registry"
	"dnsd/registry/file"
	"dnsd/registry/follow"
	"dnsd/registry/machinejson"
)

// exportTimeout bounds the wait for the source's first complete listing. A
// million machines take an etcd cluster less than half of it.
const exportTimeout = time.Minute

// export prints what the source lists as a registry file. It reads the source
// by itself and asks no running dnsd, so it works where none runs; the last
// known state on disk is neither read nor written.
func export(ctx context.Context, c *config, getenv func(string) string, stdout, stderr io.Writer) error {
	log := newLogger(c, stderr)
	source, err := c.Registry.source.open(c, getenv, log)
	if err != nil {
		return err
	}
	if _, ok := source.(*stateSource); ok {
		log = slog.New(slog.DiscardHandler) // it is read once, and the error says all
	}
	reg := registry.New()
	follower := follow.New(reg, source, follow.Config{Log: log})

	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() { _ = follower.Run(ctx) }) // it returns only when ctx ends

	if err := awaitSync(ctx, reg, source); err != nil {
		return fmt.Errorf("reading %s: %w", source, err)
	}
	buffered := bufio.NewWriter(stdout)
	if err := machinejson.Export(buffered, reg.Snapshot()); err != nil {
		return err
	}
	return buffered.Flush()
}

// awaitSync waits until the registry holds a complete listing. It gives up when
// a file or a state is in trouble: nobody is there to mend it meanwhile.
func awaitSync(ctx context.Context, reg *registry.Registry, source follow.Source) error {
	_, isFile := source.(*file.Source)
	_, isState := source.(*stateSource)
	look := time.Tick(100 * time.Millisecond)
	for {
		status := reg.Status()
		if status.Synced() {
			return nil
		}
		why := cmp.Or(trouble(status.Problem, source), status.Doubt) // neither is a registry to export
		if (isFile || isState) && why != "" {
			return errors.New(why)
		}
		select {
		case <-status.Changed():
		case <-look:
		case <-ctx.Done():
			if why != "" {
				return errors.New(why)
			}
			return ctx.Err()
		}
	}
}
