package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// entrant is one side of a comparison: a server under a load.
type entrant struct {
	name   string
	server *server
	load   func(context.Context) (tally, error)
	before func(context.Context) error // may be nil: what has to be so during the load
	after  func() error                // may be nil: undoes before
}

// series is what an entrant showed, one value for each counted round.
type series struct {
	name   string
	micros []float64 // CPU of the server, µs per answered question
	qps    []float64
	bytes  float64
}

// alternate runs the entrants in turns, round after round, and throws the
// first round away: what disturbs the machine for a while disturbs all.
func (b *bench) alternate(ctx context.Context, entrants []entrant) ([]series, error) {
	out := make([]series, len(entrants))
	for i := range entrants {
		out[i].name = entrants[i].name
	}
	for round := range b.runs + 1 {
		for i := range entrants {
			e := &entrants[i]
			t, used, err := e.once(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.name, err)
			}
			micros := float64(used.Nanoseconds()) / 1000 / float64(t.answered)
			b.say("  round %d: %-28s %6.2f µs/query, %7.0f queries/s", round, e.name, micros, float64(t.answered)/t.elapsed.Seconds())
			if round == 0 {
				continue
			}
			out[i].micros = append(out[i].micros, micros)
			out[i].qps = append(out[i].qps, float64(t.answered)/t.elapsed.Seconds())
			out[i].bytes = t.bytes
		}
	}
	return out, nil
}

// once runs one load and returns the CPU time that the server took for it.
func (e *entrant) once(ctx context.Context) (t tally, used time.Duration, err error) {
	if err := e.server.rest(ctx); err != nil {
		return t, 0, err
	}
	if e.before != nil {
		if err := e.before(ctx); err != nil {
			return t, 0, err
		}
	}
	if e.after != nil {
		defer func() {
			if bad := e.after(); err == nil {
				err = bad
			}
		}()
	}
	from, err := cpuTime(e.server.pids)
	if err != nil {
		return t, 0, err
	}
	if t, err = e.load(ctx); err != nil {
		return t, 0, err
	}
	to, err := cpuTime(e.server.pids)
	return t, to - from, err
}

// median returns the middle value, and the mean of the two middle ones where
// their number is even. Values must not be empty.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// ratio returns the median of the ratios of a to b, round by round.
func ratio(a, b []float64) float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return median(out)
}

// quantile returns the value that the share q of the sorted values does not
// exceed (nearest rank). Values must not be empty.
func quantile[T any](sorted []T, q float64) T {
	return sorted[min(len(sorted)-1, max(0, int(float64(len(sorted))*q+0.999999)-1))]
}
