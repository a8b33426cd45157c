package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"dnsd/registry/corrosion"
	"dnsd/registry/follow"
	"dnsd/registry/regular"
)

var corrosionKind = &sourceKind{
	scheme: "corrosion", url: "corrosion://HOST:PORT", read: readCorrosionURL, silence: corrosion.Silence, ownHost: true,
}

// corrosionURL is host:port of an agent.
type corrosionURL string

func readCorrosionURL(url string) (registrySource, error) {
	addr, err := corrosion.ParseURL(url)
	return corrosionURL(addr), err
}

func (addr corrosionURL) open(c *config, getenv func(string) string, log *slog.Logger) (follow.Source, error) {
	return addr.source(c, getenv, log)
}

func (addr corrosionURL) source(c *config, getenv func(string) string, log *slog.Logger) (*corrosion.Source, error) {
	queries, err := c.corrosionQueries()
	if err != nil {
		return nil, err
	}
	return corrosion.New(corrosion.Config{
		Addr: string(addr), Token: getenv(corrosionToken), TokenFile: c.Corrosion.TokenFile, Queries: queries,
		StateDir: c.StateDir,
	}, log)
}

// check asks the agent what is wrong with the queries. It is no mistake that there
// is none to ask: flags may be checked on another host.
func (addr corrosionURL) check(ctx context.Context, c *config, getenv func(string) string, stdout io.Writer) error {
	source, err := addr.source(c, getenv, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	mistakes, err := source.Check(ctx)
	for _, m := range mistakes {
		fmt.Fprintln(stdout, m)
	}
	switch {
	case len(mistakes) > 0:
		return fmt.Errorf("the queries for %s have %s", source, plural(len(mistakes), "problem"))
	case err != nil:
		_, err = fmt.Fprintf(stdout, "the flags are good; the queries could not be checked: %v\n", err)
	default:
		_, err = fmt.Fprintln(stdout, "the flags are good, and so are the queries for the agent's tables")
	}
	return err
}

// corrosionQueries returns the SELECTs for the agent: the default ones, but for
// those that --corrosion-queries replaces. A kind whose query is empty there is
// not read at all.
func (c *config) corrosionQueries() (corrosion.Queries, error) {
	defaults := corrosion.DefaultQueries()
	if c.Corrosion.Queries == "" {
		return defaults, nil
	}
	data, err := regular.Read(c.Corrosion.Queries, regular.MaxSettings)
	if err != nil {
		return defaults, fmt.Errorf("--corrosion-queries: %w", err)
	}
	given := map[string]string{}
	if err := json.Unmarshal(data, &given); err != nil {
		return defaults, fmt.Errorf("--corrosion-queries %s: want a JSON object of SELECTs: %w", c.Corrosion.Queries, err)
	}
	queries := map[string]*string{
		"machines": &defaults.Machines, "apps": &defaults.Apps,
		"peers": &defaults.Peers, "addresses": &defaults.Addresses,
	}
	for name, sql := range given {
		query := queries[name]
		if query == nil {
			return defaults, fmt.Errorf("--corrosion-queries %s: unknown name %q: write machines, apps, peers or addresses",
				c.Corrosion.Queries, name)
		}
		*query = sql
	}
	return defaults, nil
}
