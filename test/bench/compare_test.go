package main

import (
	"strings"
	"testing"
)

func TestMedianAndRatio(t *testing.T) {
	if m := median([]float64{9, 1, 5}); m != 5 {
		t.Errorf("median is %v", m)
	}
	if m := median([]float64{4, 1, 2, 9}); m != 3 {
		t.Errorf("median is %v", m)
	}
	// Round by round: a machine that is slow for one round is slow for both.
	if r := ratio([]float64{2, 20, 3}, []float64{1, 10, 1}); r != 2 {
		t.Errorf("ratio is %v", r)
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for q, want := range map[float64]int{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(hundred, q); got != want {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	if got := quantile([]int{7}, 0.99); got != 7 {
		t.Errorf("quantile of one is %d", got)
	}
}

func TestComparison(t *testing.T) {
	var out strings.Builder
	b := &bench{out: &out}
	b.comparison([]series{
		{name: "dnsd", micros: []float64{4, 5, 6}, qps: []float64{1000, 1000, 1000}, bytes: 121},
		{name: "NSD", micros: []float64{5, 5, 6}, qps: []float64{900, 900, 900}, bytes: 121},
	}, "NSD")
	want := `| server | CPU µs/query, median | min – max | ratio to NSD | queries/s | bytes/answer |
|---|---|---|---|---|---|
| dnsd | 5.00 | 4.00 – 6.00 | 1.00 | 1000 | 121 |
| NSD | 5.00 | 5.00 – 6.00 | – | 900 | 121 |

`
	if out.String() != want {
		t.Errorf("table is\n%s\nwant\n%s", &out, want)
	}
}
