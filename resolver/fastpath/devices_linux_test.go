//go:build amd64 || arm64

package fastpath

import (
	"net"
	"testing"
)

// Packets of other link layers, such as InfiniBand's, are not what the programs read.
func TestLinkLayers(t *testing.T) {
	p := &Path{kernel: &kernelSide{}}
	_, err := p.attach(net.Interface{Index: 1, Name: "ib0", HardwareAddr: make([]byte, 20)})
	if want := "neither an Ethernet device nor one without a link layer"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
