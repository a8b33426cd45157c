package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dnsd/registry"
	"dnsd/registry/follow"
	"dnsd/registry/state"
)

var stateKind = &sourceKind{scheme: "state", url: "state:DIR", read: readStateURL, silence: time.Second}

// stateURL is a directory that a dnsd keeps its last known state in, or a file of it.
type stateURL string

func readStateURL(url string) (registrySource, error) {
	path := strings.TrimPrefix(url, "state:")
	if path == "" {
		return nil, errors.New("no directory: write one such as state:/var/lib/dnsd")
	}
	return stateURL(path), nil
}

func (path stateURL) open(c *config, _ func(string) string, _ *slog.Logger) (follow.Source, error) {
	return &stateSource{path, c.StaleAfter / 3}, nil
}

// files returns the files that may be read, the newest first.
func (path stateURL) files() []string {
	if info, err := os.Stat(string(path)); err == nil && !info.IsDir() {
		return []string{string(path)}
	}
	return []string{filepath.Join(string(path), state.Name), filepath.Join(string(path), state.Previous)}
}

// check says what each file holds. The one before the newest may be missing.
func (path stateURL) check(_ context.Context, _ *config, _ func(string) string, stdout io.Writer) error {
	problems := 0
	for i, file := range path.files() {
		c, err := state.Read(file)
		switch {
		case errors.Is(err, fs.ErrNotExist) && i > 0:
		case err != nil:
			fmt.Fprintf(stdout, "%s: %v\n", file, err)
			problems++
		default:
			summarizeState(stdout, c)
		}
	}
	if problems > 0 {
		return fmt.Errorf("%s has %s", path, plural(problems, "problem"))
	}
	return nil
}

func summarizeState(w io.Writer, c *state.Contents) {
	reg := registry.New()
	c.Restore(reg)
	var counts [4]int
	for _, k := range registry.Kinds() {
		counts[k] = reg.Count(k)
	}
	bytes, batches := c.Appended()
	fmt.Fprintf(w, "%s: %s\n  saved at %s from %s, with %s of changes in %d bytes\n", c.Path, countObjects(counts),
		c.Saved.UTC().Format(time.RFC3339), c.Source, plural(batches, "batch"), bytes)
	if c.Cut > 0 {
		why := c.Why
		if why == nil {
			why = errors.New("they are part of an unfinished batch")
		}
		fmt.Fprintf(w, "  the last %d bytes are not used: %v\n", c.Cut, why)
	}
}

// stateSource lists what a state holds, and knows of no change.
type stateSource struct {
	path  stateURL
	alive time.Duration // between two proofs of life
}

// String implements follow.Source.
func (s *stateSource) String() string { return "state:" + string(s.path) }

// Follow implements follow.Source.
func (s *stateSource) Follow(ctx context.Context, feed follow.Feed, _ bool) error {
	var errs []error
	for _, file := range s.path.files() {
		c, err := state.Read(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading %s: %w", file, err))
			continue
		}
		if err := errors.Join(feed.List(ctx, c.Items()), feed.Listed(ctx, "")); err != nil {
			return err
		}
		return s.stayAlive(ctx, feed)
	}
	return errors.Join(errs...)
}

func (s *stateSource) stayAlive(ctx context.Context, feed follow.Feed) error {
	again := time.NewTicker(s.alive)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
			if err := feed.Change(ctx, nil); err != nil {
				return err
			}
		}
	}
}
