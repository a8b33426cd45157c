//go:build !noetcd

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"dnsd/registry/etcd"
	"dnsd/registry/follow"
)

var etcdKind = &sourceKind{scheme: "etcd", url: "etcd://HOST:PORT,.../PREFIX/", read: readEtcdURL, silence: etcd.Silence}

type etcdURL struct {
	endpoints []string
	prefix    string // of its keys
}

func readEtcdURL(url string) (registrySource, error) {
	endpoints, prefix, err := etcd.ParseURL(url)
	return etcdURL{endpoints, prefix}, err
}

func (u etcdURL) open(c *config, getenv func(string) string, log *slog.Logger) (follow.Source, error) {
	// What is wrong with the flags is left out, so that etcd.New does not report it as well.
	var errs []error
	files := c.Etcd
	if (files.Cert == "") != (files.Key == "") {
		errs = append(errs, errors.New("--etcd-cert and --etcd-key go together: give both or neither"))
		files.Cert, files.Key = "", ""
	}
	if files.PasswordFile != "" && files.User == "" {
		errs = append(errs, errors.New("--etcd-password-file is given but not whose password it is: add --etcd-user NAME"))
		files.User = "unknown"
	}
	source, err := etcd.New(etcd.Config{
		Endpoints: u.endpoints, Prefix: u.prefix,
		CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key,
		Username: files.User, Password: getenv(etcdPassword), PasswordFile: files.PasswordFile,
	}, log)
	return source, errors.Join(append(errs, err)...)
}

func (etcdURL) check(_ context.Context, _ *config, _ func(string) string, stdout io.Writer) error {
	_, err := fmt.Fprintln(stdout, "the flags are good; the registry is no file, so there is none to check")
	return err
}
