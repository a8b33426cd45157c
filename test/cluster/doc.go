// Package cluster tests dnsd as a platform runs it: the real binary, fed by real
// etcd clusters and by a Corrosion agent, both of which fail in every way that
// they are known to.
package cluster
