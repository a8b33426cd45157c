package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"dnsd/registry/file"
)

// In JSON, values say what they say in text.
func TestValuesInJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	tests := []struct {
		name  string
		value any
		want  string
	}{
		{"source", file.New(file.Config{Path: "/etc/dnsd/registry.json"}, slog.Default()), `"file:/etc/dnsd/registry.json"`},
		{"duration", 1500 * time.Millisecond, `"1.5s"`},
		{"time", at, `"2026-01-02T15:04:05Z"`},
		{"address", netip.MustParseAddr("fdaa::3"), `"fdaa::3"`},
		{"addresses", []netip.AddrPort{netip.MustParseAddrPort("[fdaa::3]:53")}, `["[fdaa::3]:53"]`},
		{"upstreams", labels(nil), `[]`},
		{"number", 3, `3`},
		{"error", context.Canceled, `"context canceled"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := &logBuffer{}
			newLogger(&config{LogFormat: "json"}, log).Warn("x", "value", tt.value)
			if want := `"level":"WARN","msg":"x","value":` + tt.want + "}\n"; !strings.HasSuffix(log.String(), want) {
				t.Errorf("%s, want %s", log, want)
			}
		})
	}
}

// logged runs dnsd until its registry is listed and returns its log's records by
// their messages.
func logged(t *testing.T, environ []string, args ...string) map[string]map[string]any {
	t.Helper()
	log := &logBuffer{}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, append(args, "--listen=127.0.0.1:0", "--metrics-listen=none", "--log-format=json"), environment(environ...), nil, log, environ...)
	}()
	eventually(t, "the listing", func() bool { return strings.Contains(log.String(), "the registry is listed") })
	stop()
	if err := <-done; err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	records := map[string]map[string]any{}
	for line := range strings.Lines(log.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for name, value := range record {
			if _, object := value.(map[string]any); object || value == nil {
				t.Errorf("%s says nothing: %s", name, line)
			}
		}
		records[record["msg"].(string)] = record
	}
	return records
}

// The line of the start says what dnsd does and for whom.
func TestStartIsLogged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 1)
	tests := []struct {
		name, args, network, region string
		upstreams                   []any
	}{
		{"bare", "--upstream none", "none", "none", []any{"none"}},
		{"all", "--upstream 192.0.2.1 --upstream corp=192.0.2.2 --upstream tls://192.0.2.3#dns.example --network fdaa:0:18::/48 --region fra",
			"fdaa:0:18::/48", "fra", []any{"192.0.2.1:53", "corp=192.0.2.2:53", "tls://192.0.2.3:853#dns.example"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			records := logged(t, nil, append(strings.Fields(tt.args), "--registry", "file:"+path)...)
			start := records["dnsd listens"]
			if start["network"] != tt.network || start["region"] != tt.region || !reflect.DeepEqual(start["upstreams"], tt.upstreams) {
				t.Errorf("%v", start)
			}
			if source := records["the registry is listed"]["source"]; source != "file:"+path || start["registry"] != source {
				t.Errorf("source %v, registry %v, want file:%s", source, start["registry"], path)
			}
		})
	}
}

// The host's nameservers, where they are followed, are in that line too.
func TestUpstreamsOfTheHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeResolvConf(t, path, "nameserver 192.0.2.3\n", "rename")
	c, _, err := parseConfig([]string{"--upstream", "corp=192.0.2.2"}, environment())
	if err != nil {
		t.Fatal(err)
	}
	c.resolvConf = path
	d, err := newDaemon(c, environment(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := d.upstreams(c); !reflect.DeepEqual(got, []string{"corp=192.0.2.2:53", "192.0.2.3:53"}) {
		t.Errorf("%v", got)
	}
}

// A setting that is ignored, or cannot work well, ends nothing: it is warned of
// where dnsd serves and where it checks.
func TestWarnings(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 1)
	places := filepath.Join(t.TempDir(), "regions.csv")
	if err := os.WriteFile(places, []byte("code,latitude,longitude\nxyz,1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, variable, args string
		want                 []string
	}{
		{"nothing", "", "--region FRA", nil},
		{"variable", "DNSD_LISTN=127.0.0.1:0", "", []string{"DNSD_LISTN in the environment is no setting of dnsd's and is ignored: did you mean DNSD_LISTEN?"}},
		{"source", "DNSD_CORROSION_QUERIES=none", "--etcd-ca none", []string{
			"--etcd-ca is ignored: --registry names a file registry", "--corrosion-queries is ignored: --registry names a file registry"}},
		{"region", "", "--region lhx", []string{"--region lhx is not in the table of regions, so dnsd cannot tell what is near: add it with --regions FILE, or did you mean lax or lhr or phx?"}},
		{"region_like_none", "", "--region nowhere", []string{"--region nowhere is not in the table of regions, so dnsd cannot tell what is near: add it with --regions FILE"}},
		{"region_of_a_file", "DNSD_REGION=Xyz", "--regions " + places, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			environ := []string{"DNSD_REGISTRY=file:" + path}
			if tt.variable != "" {
				environ = append(environ, tt.variable)
			}
			var warned []string
			for msg, record := range logged(t, environ, append(strings.Fields(tt.args), "--upstream=none")...) {
				if record["level"] == "WARN" {
					warned = append(warned, msg)
				}
			}
			var out, errs strings.Builder
			if err := run(t.Context(), append([]string{"check"}, strings.Fields(tt.args)...), environment(environ...), &out, &errs, environ...); err != nil {
				t.Errorf("check: %v", err)
			}
			if len(warned) != len(tt.want) || strings.Count(errs.String(), "\n") != len(tt.want) {
				t.Errorf("warned of %q, check of %q, want %q", warned, errs.String(), tt.want)
			}
			for _, want := range tt.want {
				if !slices.ContainsFunc(warned, func(w string) bool { return strings.HasPrefix(w, want) }) || !strings.Contains(errs.String(), "dnsd: warning: "+want) {
					t.Errorf("warned of %q, check of %q, want %q", warned, errs.String(), want)
				}
			}
		})
	}
}
