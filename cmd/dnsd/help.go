package main

// helpText is what --help prints: one screen of 80 columns, the flags in groups,
// each with its default. A test holds it to the settings.
const helpText = `dnsd answers the .internal names of private networks and forwards all others.

  dnsd [FLAGS]                serve
  dnsd check [FLAGS] [FILE]   say what is wrong with flags or a registry file
  dnsd export [FLAGS]         print the registry as a registry file
  dnsd healthcheck [FLAGS]    ask the dnsd that runs here whether it is ready;
                              with live behind it, whether it answers at all
  dnsd version                say which dnsd this is

Clients     --listen ADDR...       UDP and TCP, [fdaa::3]:53
            --allow PREFIX...      who else may ask than fdaa::/16 and loopback
            --network PREFIX       the network of clients outside fdaa::/16
            --region CODE          where this server is; --regions FILE: places
Registry    --registry URL         file:/etc/dnsd/registry.json, or
                                   etcd://H1:PORT,H2:PORT/PREFIX/, or
                                   corrosion://HOST:PORT or state:DIR
            --state-dir DIR        keep the last known state there; or none
            --stale-after 1m       how long a silent source counts as fresh
            --etcd-ca, --etcd-cert, --etcd-key, --etcd-password-file FILE
            --etcd-user NAME
            --corrosion-token-file, --corrosion-queries FILE
Forwarding  --upstream ADDR...     IP[:PORT], tls://IP[:PORT]#NAME, DOMAIN=ADDR
                                   or none; those of /etc/resolv.conf
            --upstream-timeout 5s, --max-inflight 4096
            --cache-size 64MiB, --cache-per-network
Answers     --ttl 5s, --max-udp-size 1232, --no-identity
            --advertise fdaa::3, --api-address ADDR
Operation   --metrics-listen ADDR  /metrics /healthz /readyz; 127.0.0.1:9153
            --log-level info, --log-format text, --sockets N
            --fast-path DEVICE...  have the kernel answer at these: tap*; none
            --version, --help

Each flag may stand in the environment, repeated ones with commas: DNSD_LISTEN.
`
