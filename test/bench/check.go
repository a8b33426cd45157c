package main

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// mostChecked bounds the questions of one check: a few seconds' worth.
const mostChecked = 4000

// check asks the server at addr the questions (evenly spread ones, where there
// are more than mostChecked) and returns an error at the first answer that is
// not right: response code, number of records, their values. A client of each
// question's network asks where addr is in fdaa::/16.
func check(addr string, qs []question) error {
	step := (len(qs) + mostChecked - 1) / mostChecked
	clients := make(map[string]*dns.Conn)
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	for i := 0; i < len(qs); i += step {
		from := ""
		if strings.HasPrefix(addr, "[fdaa:") {
			from = clientAddr(qs[i].network).String()
		}
		if clients[from] == nil {
			if len(clients) >= 500 { // sockets
				continue
			}
			d := net.Dialer{}
			if from != "" {
				d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
			}
			conn, err := d.Dial("udp", addr)
			if err != nil {
				return err
			}
			clients[from] = &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize}
		}
		resp, err := ask(clients[from], &qs[i])
		if err == nil {
			err = qs[i].right(resp)
		}
		if err != nil {
			return fmt.Errorf("%s asked for %s %s: %w", addr, qs[i].name, dns.TypeToString[qs[i].typ], err)
		}
	}
	return nil
}

// ask asks over one socket, three times where no answer comes.
func ask(conn *dns.Conn, q *question) (*dns.Msg, error) {
	m := q.message()
	var resp *dns.Msg
	var err error
	for range 3 {
		_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
		if err = conn.WriteMsg(m); err != nil {
			return nil, err
		}
		for {
			if resp, err = conn.ReadMsg(); err != nil || resp.Id == m.Id {
				break
			}
		}
		if err == nil {
			return resp, nil
		}
	}
	return nil, err
}

// right returns an error that says what is wrong with an answer.
func (q *question) right(m *dns.Msg) error {
	switch {
	case m.Rcode != q.rcode:
		return fmt.Errorf("response code %s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[q.rcode])
	case q.records < 0 && (!m.Truncated || len(m.Answer) == 0 && q.typ != dns.TypeTXT):
		return fmt.Errorf("%d records, TC=%v: want a truncated answer", len(m.Answer), m.Truncated)
	case q.records >= 0 && len(m.Answer) != q.records:
		return fmt.Errorf("%d records, want %d", len(m.Answer), q.records)
	case q.records < 0 || q.data == nil:
		return nil
	}
	var data []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.AAAA:
			data = append(data, rr.AAAA.String())
		case *dns.TXT:
			data = append(data, strings.Join(rr.Txt, ""))
		}
	}
	slices.Sort(data)
	if !slices.Equal(data, q.data) {
		return fmt.Errorf("the records are %q, want %q", data, q.data)
	}
	return nil
}
