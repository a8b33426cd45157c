package main

import (
	"encoding/json"
	"math"
	"sync/atomic"
	"time"
)

// histogram counts durations in steps of 5 %, from 0.1 ms to ten hours. Adding is safe
// for concurrent use.
type histogram struct{ counts [buckets]atomic.Int64 }

const (
	buckets = 400
	least   = 100 * time.Microsecond
	step    = 1.05
)

func (h *histogram) add(d time.Duration) {
	i := 0
	if d > least {
		i = min(int(math.Log(float64(d)/float64(least))/math.Log(step))+1, buckets-1)
	}
	h.counts[i].Add(1)
}

// merge adds what another one has counted.
func (h *histogram) merge(other *histogram) {
	for i := range other.counts {
		h.counts[i].Add(other.counts[i].Load())
	}
}

func (h *histogram) total() (n int64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// quantile returns a duration that the part q of all does not exceed, 5 % too much at
// most; 0 where nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	want := int64(math.Ceil(q * float64(h.total())))
	if want == 0 {
		return 0
	}
	i := 0
	for n := h.counts[0].Load(); n < want; n += h.counts[i].Load() {
		i++
	}
	return time.Duration(float64(least) * math.Pow(step, float64(i)))
}

// MarshalJSON writes the counts as a list.
func (h *histogram) MarshalJSON() ([]byte, error) {
	var counts [buckets]int64
	for i := range counts {
		counts[i] = h.counts[i].Load()
	}
	return json.Marshal(counts)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *histogram) UnmarshalJSON(text []byte) error {
	var counts [buckets]int64
	if err := json.Unmarshal(text, &counts); err != nil {
		return err
	}
	for i, n := range counts {
		h.counts[i].Store(n)
	}
	return nil
}
