package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"dnsd/registry"
	"dnsd/registry/machinejson"
	"dnsd/registry/regular"
	"dnsd/registry/state"
	"dnsd/zones"
)

// load reads what the flags name and reports what is wrong with it. A registry
// file is not part of that: dnsd serves without one, until it is there.
func (c *config) load(getenv func(string) string) error {
	var errs []error
	if c.Regions != "" {
		table, err := readRegions(c.Regions)
		if err != nil {
			errs = append(errs, fmt.Errorf("--regions: %w", err))
		}
		c.regions = table
	}
	if c.Registry.kind != nil { // else --registry was reported
		if _, err := c.Registry.source.open(c, getenv, slog.New(slog.DiscardHandler)); err != nil {
			errs = append(errs, err)
		}
	}
	if info, err := os.Stat(c.StateDir); c.StateDir != "" && err == nil && !info.IsDir() {
		errs = append(errs, fmt.Errorf("--state-dir %s: this is no directory: name one, or leave the flag out", c.StateDir))
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	c.checkRegion()
	return nil
}

// checkRegion warns of a --region that the table of regions lacks.
func (c *config) checkRegion() {
	table := c.regions
	if table == nil {
		table = zones.BuiltInRegions()
	}
	code, codes := registry.Lower(c.Region), table.Codes()
	if code == "" || slices.Contains(codes, code) {
		return
	}
	like := slices.DeleteFunc(codes, func(other string) bool { return editDistance(code, other) > 1 })
	warning := fmt.Sprintf("--region %s is not in the table of regions, so dnsd cannot tell what is near: add it with --regions FILE", c.Region)
	if len(like) > 0 {
		warning += ", or did you mean " + strings.Join(like, " or ") + "?"
	}
	c.warnings = append(c.warnings, warning)
}

// checkStateDir says what would keep the last known state from being written. Only
// a check fails for it: a server whose disk fails goes on without saving.
func checkStateDir(dir string) error {
	if dir == "" {
		return nil
	}
	switch err := state.Try(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return usagef("--state-dir %s: there is no such directory: create it, or leave the flag out", dir)
	case err != nil && !errors.Is(err, syscall.ENOTDIR): // which load reports
		return usagef("--state-dir %s: dnsd cannot write there: %w", dir, err)
	}
	return nil
}

// readRegions returns the built-in regions with those of a file.
func readRegions(path string) (*zones.Regions, error) {
	data, err := regular.Read(path, regular.MaxSettings)
	if err != nil {
		return nil, err
	}
	table, err := zones.BuiltInRegions().Extend(strings.NewReader(string(data)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return table, nil
}

// check says what is wrong with a registry file, a state, or what --registry names.
// The flags were found to be good before.
func check(ctx context.Context, c *config, getenv func(string) string, operands []string, stdout io.Writer) error {
	switch len(operands) {
	case 0:
		return c.Registry.source.check(ctx, c, getenv, stdout)
	case 1:
		for _, kind := range []*sourceKind{fileKind, stateKind} {
			if !strings.HasPrefix(operands[0], kind.scheme+":") {
				continue
			}
			source, err := kind.read(operands[0])
			if err != nil {
				return usagef("%s: %w", operands[0], err)
			}
			return source.check(ctx, c, getenv, stdout)
		}
		return checkFile(operands[0], stdout)
	}
	return usagef("unexpected argument %q: dnsd check takes one file", operands[1])
}

// checkFile says what is wrong with a registry file; - is standard input. Problems
// go to stdout as path:line:column: text, which editors understand.
func checkFile(path string, stdout io.Writer) error {
	var data []byte
	var err error
	if path == "-" {
		path = "standard input"
		data, err = regular.ReadAll(os.Stdin, regular.MaxRegistry)
	} else {
		data, err = regular.Read(path, regular.MaxRegistry)
	}
	if err != nil {
		return fmt.Errorf("reading registry file: %w", err)
	}
	report := machinejson.Check(data)
	for _, p := range report.Problems {
		fmt.Fprintf(stdout, "%s:%d:%d: %s\n", path, p.Line, p.Column, p.Text)
	}
	if !report.Unusable {
		summarize(stdout, path, &report)
	}
	if n := len(report.Problems); n > 0 {
		return fmt.Errorf("%s has %s", path, plural(n, "problem"))
	}
	return nil
}

// summarize prints what a registry file holds.
func summarize(w io.Writer, path string, r *machinejson.Report) {
	fmt.Fprintf(w, "%s: %s in %s\n", path, countObjects(r.Objects), plural(len(r.Networks), "network"))
	for _, n := range r.Networks {
		fmt.Fprintf(w, "  %s: %s\n", n.Network, countObjects(n.Objects))
	}
	if len(r.States) == 0 {
		return
	}
	var states []string
	for _, state := range slices.Sorted(maps.Keys(r.States)) {
		states = append(states, fmt.Sprintf("%d %s", r.States[state], state))
	}
	fmt.Fprintf(w, "  machines: %s\n", strings.Join(states, ", "))
}

func countObjects(counts [4]int) string {
	var parts []string
	for _, kind := range registry.Kinds() {
		parts = append(parts, plural(counts[kind], kind.String()))
	}
	return strings.Join(parts, ", ")
}

// plural is n things, in words.
func plural(n int, thing string) string {
	switch {
	case n == 1:
		return "1 " + thing
	case strings.HasSuffix(thing, "s"), strings.HasSuffix(thing, "ch"):
		return fmt.Sprintf("%d %ses", n, thing)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
