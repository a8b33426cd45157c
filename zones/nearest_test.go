package zones

import (
	"errors"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"dnsd/resolver"

	"github.com/miekg/dns"
)

func TestNearest(t *testing.T) {
	table := must(BuiltInRegions().Extend(strings.NewReader(
		"code,latitude,longitude\nmid,0,0\neast,0,10\nwest,0,-10\nnorth,10,0\nEAST2,0,10\npole,90,0\n")))
	_, z := serve(Config{Regions: table},
		machine(netA, "e1 web east started fdaa:0:18::e1"), machine(netA, "e2 web East2 started fdaa:0:18::e2"),
		machine(netA, "m1 web mid started fdaa:0:18::a1"), machine(netA, "m2 web mid started fdaa:0:18::a2"),
		machine(netA, "m3 web mid stopped fdaa:0:18::a3"), machine(netA, "n1 web north started fdaa:0:18::b1"),
		machine(netA, "p1 web pole started fdaa:0:18::d1"), machine(netA, "s1 sleep mid stopped fdaa:0:18::51"),
		machine(netA, "w1 web west started fdaa:0:18::c1"),
		machine(netA, "x1 web nowhere started fdaa:0:18::f1"), machine(netA, "x2 web - started fdaa:0:18::f2"))
	tests := []struct {
		region, app string
		top         string
		runs        string // last parts of the addresses, runs divided by "|"
		limit       int
		ede         string
	}{
		{"mid", "web", "top1", "a1 a2", 1, ""},
		{"mid", "web", "top2", "a1 a2", 0, ""},
		{"mid", "web", "top3", "a1 a2 | e1 e2 b1 c1", 3, ""},
		{"mid", "web", "top6", "a1 a2 | e1 e2 b1 c1", 0, ""},
		{"mid", "web", "top7", "a1 a2 | e1 e2 b1 c1 | d1", 0, ""},
		{"mid", "web", "top8", "a1 a2 | e1 e2 b1 c1 | d1 | f1 f2", 8, ""},
		{"mid", "web", "top9", "a1 a2 | e1 e2 b1 c1 | d1 | f1 f2", 0, ""},
		{"mid", "web", "top1000", "a1 a2 | e1 e2 b1 c1 | d1 | f1 f2", 0, ""},
		{"west", "web", "top4", "c1 | a1 a2 | b1", 0, ""},
		{"pole", "web", "top2", "d1 | b1", 0, ""},
		{"", "web", "top2", "e1 e2 a1 a2 b1 d1 c1 f1 f2", 2, "your region is not known, so the order is arbitrary"},
		{"", "sleep", "top1", "", 0, "sleep: 1 machine, none started"},
		{"nowhere", "web", "top2", "e1 e2 a1 a2 b1 d1 c1 f1 f2", 2, "your region nowhere has no coordinates, so the order is arbitrary"},
	}
	for _, test := range tests {
		view := resolver.View{Network: netip.MustParsePrefix(netA), Region: test.region}
		a := ask(t, z, view, "", test.top+".nearest.of."+test.app+".internal", dns.TypeAAAA)
		var runs []string
		rest := a.Data
		for _, n := range a.Turns {
			var run []string
			for _, rdata := range rest[:n] {
				run = append(run, strings.TrimPrefix(rdataText(t, a.Type, rdata), "fdaa:0:18::"))
			}
			rest = rest[n:]
			runs = append(runs, strings.Join(run, " "))
		}
		ede := ""
		if len(a.EDE) > 0 {
			ede = a.EDE[0].Text
		}
		if got := strings.Join(runs, " | "); got != test.runs || a.Limit != test.limit || ede != test.ede {
			t.Errorf("%s from %q: %s, limit %d, %q\nwant %s, limit %d, %q",
				test.top, test.region, got, a.Limit, ede, test.runs, test.limit, test.ede)
		}
	}
}

// Turns are fair by their structure: over all starting points of its run, each
// member of a run leaves in the response equally often, wherever the limit cuts.
func TestTurnsAreFair(t *testing.T) {
	_, z := serve(Config{Region: "iad"},
		machine(netA, "a1 web iad started fdaa:0:18::1"), machine(netA, "a2 web iad started fdaa:0:18::2"),
		machine(netA, "a3 web iad started fdaa:0:18::3"), machine(netA, "a4 web fra started fdaa:0:18::4"),
		machine(netA, "a5 web fra started fdaa:0:18::5"), machine(netA, "a6 web lhr started fdaa:0:18::6"))
	view := resolver.View{Network: netip.MustParsePrefix(netA), Region: "iad"}
	for _, name := range []string{"web.internal", "iad.web.internal", "top1.nearest.of.web.internal", "top2.nearest.of.web.internal",
		"top3.nearest.of.web.internal", "top5.nearest.of.web.internal", "top6.nearest.of.web.internal", "top9.nearest.of.web.internal"} {
		a := ask(t, z, view, "", name, dns.TypeAAAA)
		limit := a.Limit
		if limit == 0 {
			limit = len(a.Data)
		}
		left := limit
		for i, n := range a.Turns {
			if left <= 0 {
				t.Errorf("%s: run %d lies beyond the limit of %d", name, i, limit)
			}
			shown := min(n, left)
			sent, first := make([]int, n), make([]int, n)
			for start := range n {
				for k := range shown {
					sent[(start+k)%n]++
				}
				first[start]++
			}
			if slices.Min(sent) != slices.Max(sent) || slices.Min(first) != slices.Max(first) {
				t.Errorf("%s: run %d is not fair: %v sent, %v first", name, i, sent, first)
			}
			left -= n
		}
	}
}

func TestBuiltInRegions(t *testing.T) {
	r := BuiltInRegions()
	if codes := r.Codes(); len(codes) != 36 || !slices.IsSorted(codes) || codes[0] != "ams" {
		t.Errorf("the regions are %q, want 36", codes)
	}
	// Great-circle distances, in kilometres.
	for _, test := range []struct {
		a, b string
		km   int
	}{
		{"iad", "iad", 0}, {"lhr", "cdg", 347}, {"lhr", "ewr", 5564}, {"syd", "gru", 13372}, {"fra", "ams", 364}, {"sin", "nrt", 5319},
	} {
		got := distance(r.at[test.a], r.at[test.b])
		if back := distance(r.at[test.b], r.at[test.a]); got != back {
			t.Errorf("%s to %s is %d m and %d m back", test.a, test.b, got, back)
		}
		if km := (got + 500) / 1000; km < test.km-test.km/50-1 || km > test.km+test.km/50+1 {
			t.Errorf("%s to %s is %d km, want about %d", test.a, test.b, km, test.km)
		}
	}
	for _, degrees := range []point{{0, 0}, {41.214, -44.891}, {46.4029, -173.6159}} { // of the last two, rounding makes a sine of more than 1
		lat, lon := degrees.lat*math.Pi/180, degrees.lon*math.Pi/180
		if d := distance(point{lat, lon}, point{-lat, lon + math.Pi}); d < 20_015_000 || d > 20_016_000 {
			t.Errorf("half around the globe is %d m", d)
		}
	}
}

func TestExtendRegions(t *testing.T) {
	for _, test := range []struct{ name, table, want string }{
		{"empty", "", `the table is empty: its first line must be "code,latitude,longitude"`},
		{"no column", "code,lat,lon\n", `line 1: there is no column "latitude": the first line must name the columns code, latitude, longitude`},
		{"all mistakes", "# ours\ncode,latitude,longitude\nxyz,91,0\n,1,1\nabc,1\nnew,x,0\nnan,NaN,0\nok,1,2\nOK,1,2\nlon,0,181\na b,1,1\n" +
			strings.Repeat("x", 64) + ",1,1\n",
			`line 3: latitude "91" is not a number of degrees between -90 and 90
line 4: "" is not a region code: want one such as fra
line 5: there are 2 fields, want at least 3
line 6: latitude "x" is not a number of degrees between -90 and 90
line 7: latitude "NaN" is not a number of degrees between -90 and 90
line 9: region ok stands in line 8 already
line 10: longitude "181" is not a number of degrees between -180 and 180
line 11: "a b" is not a region code: want one such as fra
line 12: "` + strings.Repeat("x", 64) + `" is not a region code: want one such as fra`},
		{"broken header", "code,\"latitude\n", `line 1, column 16: extraneous or missing " in quoted-field`},
		{"broken quote", "code,latitude,longitude\n\"abc,1,2\n", `line 2, column 10: extraneous or missing " in quoted-field`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := BuiltInRegions().Extend(strings.NewReader(test.table))
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v\nwant %s", err, test.want)
			}
		})
	}
	broken := errors.New("the disk is gone")
	for _, before := range []string{"", "code,latitude,longitude\n"} {
		if _, err := BuiltInRegions().Extend(io.MultiReader(strings.NewReader(before), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("read after %q: %v", before, err)
		}
	}
	base := BuiltInRegions()
	r, err := base.Extend(strings.NewReader("longitude,code,note,latitude\n0,FRA,moved,0\n1,new,,1\n-180,south,,-90\n180,north,,90\n"))
	if err != nil {
		t.Fatal(err)
	}
	if r.at["fra"] != (point{}) || len(r.at) != 39 || r.at["ams"] != base.at["ams"] {
		t.Error("the table does not replace one region, add three and leave the others")
	}
	if base.at["fra"] == (point{}) || len(base.at) != 36 {
		t.Error("extending a table has changed it")
	}
}
