package test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// row is one case of a table: a client asks, and this is the answer. Every row
// is asked over UDP and TCP, with EDNS and without.
type row struct {
	client, name, typ string

	// want is NODATA, NXDOMAIN, NEGATIVE (either of the two), REFUSED or
	// SERVFAIL; otherwise the records' data: for AAAA the addresses in any
	// order, each as such or as the machine or peer that has it in the client's
	// network; for TXT the strings of the one record, joined; else their text.
	want string

	// ede is what an extended error must say: a part of its text, or "#18" for
	// its code. Empty: anything goes.
	ede string
}

func (w *world) check(t *testing.T, rows []row) {
	t.Helper()
	seen := make(map[string]bool)
	for _, r := range rows {
		id := strings.Join([]string{r.client, strings.NewReplacer(" ", "_", `\`, "_").Replace(r.name), r.typ}, "/")
		if seen[id] {
			t.Errorf("%s is twice in the table", id)
		}
		seen[id] = true
		t.Run(id, func(t *testing.T) {
			for _, proto := range []string{"udp", "tcp"} {
				for _, edns := range []bool{true, false} {
					req := question(r.name, dns.StringToType[r.typ], edns)
					resp := w.ask(t, r.client, proto, req)
					if err := w.compare(r, resp, edns); err != nil {
						t.Errorf("over %s, EDNS %v: %v\n%v", proto, edns, err, resp)
					}
				}
			}
		})
	}
}

func (w *world) compare(r row, resp *dns.Msg, edns bool) error {
	if edns && r.ede != "" {
		if err := says(resp, r.ede); err != nil {
			return err
		}
	}
	code := dns.RcodeToString[resp.Rcode]
	switch {
	case r.want == "NODATA" || r.want == "NEGATIVE" && code == "NOERROR":
		if code != "NOERROR" || len(resp.Answer) > 0 {
			return fmt.Errorf("got %s with %d records, want NODATA", code, len(resp.Answer))
		}
		return nil
	case r.want == "NEGATIVE":
		r.want = "NXDOMAIN"
		fallthrough
	case r.want == "NXDOMAIN", r.want == "REFUSED", r.want == "SERVFAIL":
		if code != r.want || len(resp.Answer) > 0 {
			return fmt.Errorf("got %s with %d records, want %s", code, len(resp.Answer), r.want)
		}
		return nil
	case code != "NOERROR":
		return fmt.Errorf("got %s, want %s", code, r.want)
	}
	got, want := data(resp, r.typ), []string{r.want}
	if r.typ == "AAAA" {
		want = w.addresses(r.client, r.want)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("got  %q\nwant %q", got, want)
	}
	return nil
}

// says checks that a response has an extended error with the text or code.
func says(resp *dns.Msg, want string) error {
	if number, ok := strings.CutPrefix(want, "#"); ok {
		code, err := strconv.Atoi(number)
		if err != nil {
			panic(err)
		}
		if !hasEDE(resp, uint16(code)) {
			return fmt.Errorf("no extended error %d: %q", code, texts(resp))
		}
		return nil
	}
	if !strings.Contains(strings.Join(texts(resp), "\n"), want) {
		return fmt.Errorf("extended errors %q do not say %q", texts(resp), want)
	}
	return nil
}

// addresses reads the addresses that a row wants, sorted.
func (w *world) addresses(client, want string) []string {
	var all []string
	for _, f := range strings.Fields(want) {
		if !strings.Contains(f, ":") {
			a, ok := w.book[home(client)+" "+f]
			if !ok {
				panic("nobody is called " + f + " in " + home(client))
			}
			f = a
		}
		all = append(all, f)
	}
	slices.Sort(all)
	return all
}

// data returns the data of the records of a type: addresses sorted, anything
// else in the response's order.
func data(resp *dns.Msg, typ string) (all []string) {
	for _, rr := range resp.Answer {
		if rr.Header().Rrtype != dns.StringToType[typ] {
			all = append(all, "unasked: "+rr.String())
			continue
		}
		switch rr := rr.(type) {
		case *dns.AAAA:
			all = append(all, rr.AAAA.String())
		case *dns.TXT:
			all = append(all, strings.Join(rr.Txt, ""))
		default:
			all = append(all, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
	}
	if typ == "AAAA" {
		slices.Sort(all)
	}
	return all
}
