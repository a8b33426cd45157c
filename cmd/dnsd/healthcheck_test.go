package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

func TestHealthcheckAsksReadyz(t *testing.T) {
	var ready atomic.Bool
	ready.Store(true)
	port := startAdmin(t, func() (string, bool) { return "a reason", ready.Load() }).Port()
	var out strings.Builder
	args := []string{"healthcheck", "--metrics-listen", fmt.Sprintf("0.0.0.0:%d", port)} // means this host
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
	for operands, want := range map[string]string{"healthcheck": "not ready: asking 127.0.0.1:", "healthcheck live": "not alive: asking 127.0.0.1:"} {
		silent := localUDP(t)
		silent.Close()
		args := append(strings.Fields(operands), "--metrics-listen=none", "--listen", silent.LocalAddr().String())
		if err := run(t.Context(), args, environment(), nil, nil); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s of an address that nobody serves: %v", operands, err)
		}
	}
	var usage usageError
	if !errors.As(err, &usage) {
		t.Errorf("error %v, want a usageError", err)
	}
}

// Without an admin listener a question is asked of the first DNS address.
func TestHealthcheckAsksDNS(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "[::]:0") // an address that is none to send to
	if err != nil {
		t.Fatal(err)
	}
	var rcode atomic.Int32
	var ede atomic.Uint32
	serveDNS(t, conn, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetRcode(q, int(rcode.Load()))
		if code := ede.Load(); code != 0 {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: uint16(code), ExtraText: "a reason"})
		}
		w.WriteMsg(m)
	})
	for _, tt := range []struct {
		rcode int
		ede   uint16
		want  string
	}{
		{dns.RcodeSuccess, 0, ""},
		{dns.RcodeRefused, 0, ""},
		{dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, ""},
		{dns.RcodeRefused, dns.ExtendedErrorCodeNotReady, "answers REFUSED: a reason"},
		{dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "answers SERVFAIL: a reason"},
		{dns.RcodeNameError, 0, "answers NXDOMAIN"},
	} {
		rcode.Store(int32(tt.rcode))
		ede.Store(uint32(tt.ede))
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
