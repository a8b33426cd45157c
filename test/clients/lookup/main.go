// Lookup resolves a name with Go's own resolver and prints the addresses, or the
// text of a TXT record.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: lookup NAME AAAA|TXT")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, StrictErrors: true}
	var all []string
	var err error
	if os.Args[2] == "TXT" {
		all, err = resolver.LookupTXT(ctx, os.Args[1])
	} else {
		all, err = resolver.LookupHost(ctx, os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, s := range all {
		fmt.Println(s)
	}
}
