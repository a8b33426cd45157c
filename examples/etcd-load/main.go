// Etcd-load puts a registry file, such as one that dnsd export printed, into
// etcd. An object that is there already is not written again, however its JSON
// is worded, so loading the same file twice changes nothing.
//
//	dnsd export --registry file:/etc/dnsd/registry.json > registry.json
//	etcd-load -endpoints h1:2379,h2:2379 -prefix /dnsd/v1/ registry.json
//
// With -prune it also deletes what lies under the prefix and not in the file;
// -dry-run only says what would happen. A file with an object that cannot be
// used is not loaded at all. The password of -user stands in ETCD_PASSWORD.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"dnsd/registry/machinejson"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// settings are the flags.
type settings struct {
	endpoints, prefix, user string
	ca, cert, key           string
	prune, dryRun           bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "etcd-load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("etcd-load", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.endpoints, "endpoints", "127.0.0.1:2379", "`HOST:PORT,...` of etcd")
	flags.StringVar(&s.prefix, "prefix", "/dnsd/v1/", "of all keys; ends in /")
	flags.StringVar(&s.user, "user", "", "`NAME` to log in with; its password is in ETCD_PASSWORD")
	flags.StringVar(&s.ca, "ca", "", "`FILE` of certificate authorities; set: TLS")
	flags.StringVar(&s.cert, "cert", "", "`FILE` of the client's certificate")
	flags.StringVar(&s.key, "key", "", "`FILE` of its key")
	flags.BoolVar(&s.prune, "prune", false, "delete what the file lacks")
	flags.BoolVar(&s.dryRun, "dry-run", false, "say what would be done, and do nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || !strings.HasSuffix(s.prefix, "/") {
		return errors.New("want one registry file, and a prefix that ends in /; see -help")
	}
	wanted, err := read(flags.Arg(0), s.prefix)
	if err != nil {
		return err
	}
	client, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return load(ctx, client, &s, wanted, stdout)
}

// read returns the keys and values of all objects in a registry file.
func read(path, prefix string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	items, err := machinejson.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	wanted := make(map[string]string, len(items))
	for _, item := range items {
		if item.Note != nil { // to write a part of it would be to lose the rest
			return nil, fmt.Errorf("%s: %s: %s: %w", path, item.Where, item.Object.Key(), item.Note)
		}
		if item.Err != nil {
			return nil, fmt.Errorf("%s: %s: %s: %w", path, item.Where, item.Key, item.Err)
		}
		key, value, err := entry(item.Object)
		if err != nil {
			return nil, err
		}
		wanted[prefix+key] = value
	}
	return wanted, nil
}

// connect opens a connection that has been used once, so that a wrong address
// or password shows here.
func (s *settings) connect(ctx context.Context) (*clientv3.Client, error) {
	config := clientv3.Config{
		Context: ctx, Endpoints: strings.Split(s.endpoints, ","), DialTimeout: 5 * time.Second,
		Username: s.user, Password: os.Getenv("ETCD_PASSWORD"), Logger: zap.NewNop(),
	}
	if s.user == "" {
		config.Password = ""
	}
	if s.ca != "" {
		config.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		authorities, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, err
		}
		if !config.TLS.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("%s holds no certificate", s.ca)
		}
		if s.cert != "" {
			cert, err := tls.LoadX509KeyPair(s.cert, s.key)
			if err != nil {
				return nil, err
			}
			config.TLS.Certificates = []tls.Certificate{cert}
		}
	}
	return clientv3.New(config)
}

// load brings what lies under the prefix to what is wanted.
func load(ctx context.Context, client *clientv3.Client, s *settings, wanted map[string]string, stdout io.Writer) error {
	surplus, same, err := compare(ctx, client, s.prefix, wanted)
	if err != nil {
		return err
	}
	var ops []clientv3.Op
	for key, value := range wanted {
		ops = append(ops, clientv3.OpPut(key, value))
	}
	slices.SortFunc(ops, func(a, b clientv3.Op) int { return strings.Compare(string(a.KeyBytes()), string(b.KeyBytes())) })
	puts, deletes := len(ops), 0
	if s.prune {
		deletes = len(surplus)
		for _, key := range surplus {
			ops = append(ops, clientv3.OpDelete(key))
		}
	}
	if s.dryRun {
		fmt.Fprint(stdout, "dry run: ")
	} else if err := commit(ctx, client, ops); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d written, %d the same, %d deleted, %d left that the file lacks\n", puts, same, deletes, len(surplus)-deletes)
	return nil
}

const (
	requestTimeout = 10 * time.Second
	pageSize       = 5000 // keys; a page of machines is then some MB
	txnSize        = 128  // operations; etcd takes no more in one (--max-txn-ops)
)

// compare reads what is under the prefix. It takes what is there already, and
// the same, out of wanted, counts it, and returns the keys that are not wanted.
func compare(ctx context.Context, client *clientv3.Client, prefix string, wanted map[string]string) (surplus []string, same int, err error) {
	key, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for revision := int64(0); ; {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		page, err := client.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		cancel()
		if err != nil {
			return nil, 0, fmt.Errorf("reading %s: %w", prefix, err)
		}
		revision = page.Header.Revision // all pages are of one moment
		for _, kv := range page.Kvs {
			value, ok := wanted[string(kv.Key)]
			switch {
			case !ok:
				surplus = append(surplus, string(kv.Key))
			case value == string(kv.Value) || canonical(strings.TrimPrefix(string(kv.Key), prefix), kv.Value) == value:
				same++
				delete(wanted, string(kv.Key))
			}
			key = string(kv.Key) + "\x00"
		}
		if !page.More {
			return surplus, same, nil
		}
	}
}

// commit runs operations, in order, in transactions as large as may be.
func commit(ctx context.Context, client *clientv3.Client, ops []clientv3.Op) error {
	for part := range slices.Chunk(ops, txnSize) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		_, err := client.Txn(ctx).Then(part...).Commit()
		cancel()
		if err != nil {
			return fmt.Errorf("writing %s and what follows: %w", part[0].KeyBytes(), err)
		}
	}
	return nil
}
