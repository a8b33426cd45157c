package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

func TestHealthcheckAsksReadyz(t *testing.T) {
	var ready atomic.Bool
	ready.Store(true)
	addr := startAdmin(t, func() (string, bool) { return "a reason", ready.Load() })
	var out strings.Builder
	args := []string{"healthcheck", "--metrics-listen", addr.String()}
	if err := run(t.Context(), args, environment(), &out, nil); err != nil || out.String() != "a reason\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	ready.Store(false)
	if err := run(t.Context(), args, environment(), &out, nil); err == nil || err.Error() != "not ready: a reason" || report(&out, err) != 1 {
		t.Errorf("error %v", err)
	}
	out.Reset() // which is no reason to restart it
	if err := run(t.Context(), append(args, "live"), environment(), &out, nil); err != nil || out.String() != "ok\n" {
		t.Errorf("live: %q, %v", out.String(), err)
	}
}

func TestHealthcheckOfNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = run(t.Context(), []string{"healthcheck"}, environment("DNSD_METRICS_LISTEN="+l.Addr().String()), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v", err)
	}
	err = run(t.Context(), []string{"healthcheck", "--metrics-listen", "127.0.0.1:0"}, environment(), nil, nil)
	if err := run(t.Context(), []string{"healthcheck", "live", "--metrics-listen", l.Addr().String()}, environment(), nil, nil); err == nil ||
		!strings.HasPrefix(err.Error(), "not alive: ") {
		t.Errorf("error %v", err)
	}
	var usage usageError
	if !errors.As(err, &usage) {
		t.Errorf("error %v, want a usageError", err)
	}
}

// Without an admin listener a question is asked of the first DNS address.
func TestHealthcheckAsksDNS(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var rcode atomic.Int32
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetRcode(q, int(rcode.Load()))
		if m.SetEdns0(1232, false); m.Rcode == dns.RcodeServerFailure {
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: 14, ExtraText: "not synced yet"})
		}
		w.WriteMsg(m)
	})}
	started, done := make(chan struct{}), make(chan error)
	server.NotifyStartedFunc = func() { close(started) }
	go func() { done <- server.ActivateAndServe() }()
	<-started
	defer func() {
		server.Shutdown()
		<-done
	}()
	for _, tt := range []struct {
		rcode int
		want  string
	}{
		{dns.RcodeSuccess, ""},
		{dns.RcodeRefused, ""},
		{dns.RcodeServerFailure, "answers SERVFAIL: not synced yet"},
		{dns.RcodeNameError, "answers NXDOMAIN"},
	} {
		rcode.Store(int32(tt.rcode))
		var out strings.Builder
		err := run(context.Background(), []string{"healthcheck", "--metrics-listen=none", "--listen", conn.LocalAddr().String()},
			environment(), &out, nil)
		if tt.want == "" && (err != nil || !strings.HasPrefix(out.String(), "ready: ")) ||
			tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %q, %v", dns.RcodeToString[tt.rcode], out.String(), err)
		}
		out.Reset()
		if err := run(context.Background(), []string{"healthcheck", "live", "--metrics-listen=none", "--listen", conn.LocalAddr().String()},
			environment(), &out, nil); err != nil || !strings.HasPrefix(out.String(), "alive: ") {
			t.Errorf("%s, live: %q, %v", dns.RcodeToString[tt.rcode], out.String(), err)
		}
	}
}

func TestReachable(t *testing.T) {
	for from, want := range map[string]string{
		"[::]:53": "[::1]:53", "0.0.0.0:53": "127.0.0.1:53", "[fdaa::3]:53": "[fdaa::3]:53",
	} {
		if got := reachable(netip.MustParseAddrPort(from)); got.String() != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}
