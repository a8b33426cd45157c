package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// healthTimeout is less than what orchestrators commonly allow a health check.
const healthTimeout = 3 * time.Second

// healthcheck asks the dnsd that runs here with the same settings whether it is
// ready, or, with the operand live, whether it answers anything at all: a dnsd that
// knows no internal names still forwards all others, and restarting it would end that.
// Its admin listener is asked where there is one, because it knows the reason, and
// dnsd ends by itself when a DNS socket dies; otherwise a question is.
func healthcheck(ctx context.Context, c *config, operands []string, stdout io.Writer) error {
	live := len(operands) == 1 && operands[0] == "live"
	if len(operands) > 0 && !live {
		return usagef("unexpected argument %q: write healthcheck, or healthcheck live", strings.Join(operands, " "))
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	ask, addr := askReadyz, c.Metrics
	switch {
	case !addr.IsValid() && live:
		ask, addr = askAnything, c.Listen[0]
	case !addr.IsValid():
		ask, addr = askDNS, c.Listen[0]
	case live:
		ask = askHealthz
	}
	if addr.Port() == 0 {
		return usagef("dnsd was told to choose a port, so there is no knowing which: " +
			"give healthcheck the --metrics-listen address that its log names")
	}
	reason, err := ask(ctx, addr) // of an unspecified address Go asks this host
	if err != nil {
		if live {
			return fmt.Errorf("not alive: %w", err)
		}
		return fmt.Errorf("not ready: %w", err)
	}
	_, err = fmt.Fprintln(stdout, reason)
	return err
}

func askReadyz(ctx context.Context, addr netip.AddrPort) (string, error) {
	return askAdmin(ctx, addr, "/readyz")
}

func askHealthz(ctx context.Context, addr netip.AddrPort) (string, error) {
	return askAdmin(ctx, addr, "/healthz")
}

func askAdmin(ctx context.Context, addr netip.AddrPort, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+path, nil)
	if err != nil {
		return "", err
	}
	// Not http.DefaultTransport: it would ask a proxy named in the environment.
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", fmt.Errorf("asking %s: %w", addr, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4096)) // one line
	if err != nil {
		return "", fmt.Errorf("reading from %s: %w", addr, err)
	}
	reason := strings.TrimSpace(string(body))
	if response.StatusCode != http.StatusOK {
		return "", errors.New(reason)
	}
	return reason, nil
}

// askDNS asks for a name that needs the registry. REFUSED is a good answer,
// because without --network loopback sees no internal name, unless an EDE says
// that dnsd is not ready.
func askDNS(ctx context.Context, addr netip.AddrPort) (string, error) {
	answer, err := exchange(ctx, addr)
	if err != nil {
		return "", err
	}
	why, unready := dns.RcodeToString[answer.Rcode], false
	if opt := answer.IsEdns0(); opt != nil {
		for _, option := range opt.Option {
			if ede, ok := option.(*dns.EDNS0_EDE); ok {
				why += ": " + ede.ExtraText
				unready = unready || ede.InfoCode == dns.ExtendedErrorCodeNotReady
			}
		}
	}
	if answer.Rcode == dns.RcodeSuccess || answer.Rcode == dns.RcodeRefused && !unready {
		return fmt.Sprintf("ready: %s answers", addr), nil
	}
	return "", fmt.Errorf("%s answers %s", addr, why)
}

// askAnything asks the same and takes any answer.
func askAnything(ctx context.Context, addr netip.AddrPort) (string, error) {
	if _, err := exchange(ctx, addr); err != nil {
		return "", err
	}
	return fmt.Sprintf("alive: %s answers", addr), nil
}

func exchange(ctx context.Context, addr netip.AddrPort) (*dns.Msg, error) {
	question := new(dns.Msg).SetQuestion("_apps.internal.", dns.TypeTXT)
	question.SetEdns0(1232, false)
	client := &dns.Client{Timeout: healthTimeout}
	answer, _, err := client.ExchangeContext(ctx, question, addr.String())
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", addr, err)
	}
	return answer, nil
}
