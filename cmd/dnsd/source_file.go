package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"dnsd/registry/file"
	"dnsd/registry/follow"
)

var fileKind = &sourceKind{scheme: "file", url: "file:PATH", read: readFileURL, silence: time.Second}

// fileURL is the path of a registry file.
type fileURL string

func readFileURL(url string) (registrySource, error) {
	path := strings.TrimPrefix(url, "file:")
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		if !strings.HasPrefix(rest, "/") {
			return nil, fmt.Errorf("a file has no host: write file:%s", rest)
		}
		path = rest
	}
	if path == "" {
		return nil, errors.New("no path: write one such as file:/etc/dnsd/registry.json")
	}
	return fileURL(path), nil
}

// open implements registrySource.
func (path fileURL) open(c *config, _ func(string) string, log *slog.Logger) (follow.Source, error) {
	return file.New(file.Config{Path: string(path), Poll: pollWithin(c.StaleAfter)}, log), nil
}

// pollWithin returns how often to look at a file, which proves itself alive at each
// look: several times before it would go stale.
func pollWithin(stale time.Duration) time.Duration { return min(file.DefaultPoll, stale/3) }

func (path fileURL) check(_ context.Context, _ *config, _ func(string) string, stdout io.Writer) error {
	return checkFile(string(path), stdout)
}
