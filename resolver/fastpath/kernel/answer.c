// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Answers DNS questions where a packet enters the host, from blocks that dnsd has
// written (block.go), and leaves everything that it does not know to dnsd's sockets.
// A packet is not changed until it is certain that it will be answered.
//
// Two programs for tc ingress share all of it: one for devices with Ethernet headers,
// one for devices without (TUN, WireGuard). Byte order is that of the machine, which
// is little-endian, but for what is in a packet: such fields are named …_be, and copied
// or compared without a look at their value.
//
// It uses no header files, so that every clang of one version makes the same object.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define BE16(n) ((u16)((((n) & 0xff) << 8) | (((n) >> 8) & 0xff)))
#define READ(v) (*(volatile typeof(v) *)&(v))

// ---- What the kernel offers (linux/bpf.h) ----

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};

struct bpf_fib_lookup {
	u8 family, l4_protocol;
	u16 sport_be, dport_be;
	u16 tot_len;
	u32 ifindex;
	u32 flowinfo_be;
	u32 src[4], dst[4];
	u16 vlan_proto, vlan_tci;
	u8 smac[6], dmac[6];
};

static void *(*const map_lookup)(const void *map, const void *key) = (void *)1;
static u32 (*const random_u32)(void) = (void *)7;
static long (*const store_bytes)(struct __sk_buff *, u32 at, const void *from, u32 len, u64 flags) = (void *)9;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const load_bytes)(const struct __sk_buff *, u32 at, void *to, u32 len) = (void *)26;
static long (*const change_tail)(struct __sk_buff *, u32 len, u64 flags) = (void *)38;
static long (*const fib_lookup)(struct __sk_buff *, struct bpf_fib_lookup *, int size, u32 flags) = (void *)69;
static u64 (*const coarse_ns)(void) = (void *)160;

enum { TCX_NEXT = -1, TCX_DROP = 2 };
enum { FIB_SKIP_NEIGH = 4 };
enum { LOOPBACK_IFINDEX = 1 };
enum { AF_INET6 = 10, ETH_P_IPV6 = 0x86dd, IPPROTO_UDP = 17, PACKET_HOST = 0 };

// ---- What dnsd shares (maps_linux.go) ----

enum {
	MAX_NAME = 96, // of a question that is answered here, in bytes; a multiple of 8
	MAX_RECORDS = 512,
	MAX_OPT = 128,
	BUCKET = 4,
	GENS = 65536,
	TYPES = 24,
};

// A block is one answer. It does not change while a bucket refers to it.
struct block {
	u64 name[MAX_NAME / 8]; // in lower case, zeros behind it
	u64 gen, gen0;          // what gens[slot] and gens[0] were before the answer was computed
	u32 network_be, slot;
	u16 type_be, name_len;
	u16 flags_be, answers_be, authority_be;
	u16 records_len;
	u16 turn_len, turns; // so many records of that length take turns at being first
	u16 opt_len;
	u16 records_sum, opt_sum[2]; // of 16-bit words, for the checksum
	u32 counter;                 // of types, of struct counts
	u32 unused;
	u8 opt[2][MAX_OPT];          // without and with DO
	u8 records[2 * MAX_RECORDS]; // twice in a row, so that any turn is one piece
};

struct bucket {
	u64 entry[BUCKET]; // 0, or high half of the hash << 32 | number of the block + 1
};

struct state {
	u64 lease; // until when answers hold, CLOCK_MONOTONIC in ns
	u64 seed;
	u32 limit;       // of a response, in bytes
	u32 bucket_mask;
};

enum { HIT, MISS, STALE, ROUTE, SHAPE, RESULTS };

struct counts {
	u64 results[RESULTS];
	u64 types[TYPES];
};

struct served {
	u32 addr[4];
	u16 port_be, zero;
};

struct map {
	u32 type, key_size, value_size, max_entries, flags;
};

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MMAPABLE = 1 << 10 };

// dnsd sets the sizes of buckets and blocks.
struct map SECTION("maps") gens = {MAP_ARRAY, 4, 8, GENS, MMAPABLE};
struct map SECTION("maps") buckets = {MAP_ARRAY, 4, sizeof(struct bucket), 1, MMAPABLE};
struct map SECTION("maps") blocks = {MAP_ARRAY, 4, sizeof(struct block), 1, MMAPABLE};
struct map SECTION("maps") states = {MAP_ARRAY, 4, sizeof(struct state), 1, MMAPABLE};
struct map SECTION("maps") counters = {MAP_PERCPU_ARRAY, 4, sizeof(struct counts), 1, 0};
struct map SECTION("maps") addresses = {MAP_HASH, sizeof(struct served), 4, 4096, 0};

// ---- A packet ----

struct headers {
	u32 ip_first;
	u16 ip_len_be;
	u8 ip_next, ip_hops;
	u32 src[4], dst[4];
	u16 sport_be, dport_be, udp_len_be, udp_sum;
	u16 id, flags_be, questions_be, answers_be, authority_be, additional_be;
};

struct ethernet {
	u8 dst[6], src[6];
	u16 proto_be;
};

// What goes in front of a response. The two bytes align what follows Ethernet.
struct front {
	u16 unused;
	struct ethernet eth;
	struct headers h;
};

struct opt {
	u8 name;
	u8 type_be[2], size_be[2];
	u8 rcode, version, flags_be[2], len_be[2];
};

// question is what a packet asks.
struct question {
	u64 name[MAX_NAME / 8]; // in lower case
	u16 tail[2];            // type and class
	u32 name_len;
	u32 len;   // of the whole question
	u64 sum;   // of its 16-bit words
	u64 hash;
};

INLINE u16 fold_sum(u64 s)
{
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return s;
}

// sum_at is a folded sum of bytes that begin at an offset.
INLINE u16 sum_at(u16 sum, u32 offset) { return offset & 1 ? BE16(sum) : sum; }

// lower returns eight bytes in lower case: A to Z (RFC 4343), which no length octet
// of a label is.
INLINE u64 lower(u64 w)
{
	const u64 ones = 0x0101010101010101ULL;
	u64 low = w & (0x7f * ones);
	u64 from_a = low + (0x80 - 'A') * ones;
	u64 past_z = low + (0x80 - 'Z' - 1) * ones;
	return w | ((from_a & ~past_z & ~w & (0x80 * ones)) >> 2);
}

INLINE u64 mix(u64 h, u64 w)
{
	h = (h ^ w) * 0x9e3779b97f4a7c15ULL;
	return h ^ (h >> 32);
}

// read_question reads the question, lower-cases its name and sums and hashes it. That
// the name is well-formed follows when it is found equal to one that is.
INLINE int read_question(struct __sk_buff *skb, u32 at, u64 seed, u32 network_be, struct question *q)
{
	u64 sum = 0;
	u32 len = q->name_len;
	if (len < 2 || len > MAX_NAME)
		return 0;
	__builtin_memset(q->name, 0, sizeof(q->name));
	if (load_bytes(skb, at, q->name, len) < 0 || load_bytes(skb, at + len, q->tail, 4) < 0)
		return 0;
	u64 hash = mix(seed, (u64)network_be << 32 | (u64)q->tail[0] << 16 | len);
#pragma clang loop unroll(disable) // the stack is small
	for (u32 i = 0; i < MAX_NAME / 8; i++) {
		u64 w = q->name[i];
		sum += (w & 0xffffffff) + (w >> 32);
		w = lower(w);
		q->name[i] = w;
		if (i * 8 < len)
			hash = mix(hash, w);
	}
	q->hash = hash;
	q->sum = sum + sum_at(fold_sum((u64)q->tail[0] + q->tail[1]), len);
	return 1;
}

INLINE struct block *find(const struct state *st, const struct question *q, u32 network_be)
{
	u32 key = q->hash & st->bucket_mask;
	struct bucket *b = map_lookup(&buckets, &key);
	if (!b)
		return 0;
#pragma unroll
	for (int i = 0; i < BUCKET; i++) {
		u64 entry = READ(b->entry[i]); // dnsd stores it after the block, whose address comes from it
		u32 n = entry;
		if (n == 0 || entry >> 32 != q->hash >> 32)
			continue;
		n--;
		struct block *a = map_lookup(&blocks, &n);
		if (!a || a->network_be != network_be || a->type_be != q->tail[0] || a->name_len != q->name_len)
			continue;
		u64 differs = 0;
#pragma clang loop unroll(disable)
		for (u32 j = 0; j < MAX_NAME / 8; j++)
			differs |= a->name[j] ^ q->name[j];
		if (!differs)
			return a;
	}
	return 0;
}

// fresh reports whether an answer still holds. A generation that has changed never
// comes again: if both are unchanged, in whatever order a processor reads them,
// both were at the first look, and at that time the answer was right.
INLINE int fresh(const struct state *st, const struct block *a)
{
	u32 slot = a->slot, zero = 0;
	u64 *gen = map_lookup(&gens, &slot), *gen0 = map_lookup(&gens, &zero);
	return gen && gen0 && READ(*gen) == a->gen && READ(*gen0) == a->gen0 && coarse_ns() < READ(st->lease);
}

// returns reports whether a response goes back by the device, and to the neighbour,
// that the question came from: if dnsd's socket sent it, routes and neighbours would
// decide, and who lies about the own address would get nothing.
INLINE int returns(struct __sk_buff *skb, const struct headers *h, u32 len, const struct ethernet *eth)
{
	struct bpf_fib_lookup r = {
		.family = AF_INET6,
		.l4_protocol = IPPROTO_UDP,
		.sport_be = h->dport_be,
		.dport_be = h->sport_be,
		.tot_len = len,
		.ifindex = LOOPBACK_IFINDEX, // as what this host sends itself is routed
	};
	__builtin_memcpy(r.src, h->dst, 16);
	__builtin_memcpy(r.dst, h->src, 16);
	if (fib_lookup(skb, &r, sizeof(r), eth ? 0 : FIB_SKIP_NEIGH) != 0 || r.ifindex != skb->ifindex)
		return 0;
	u32 differs = 0;
	if (eth) {
#pragma unroll
		for (int i = 0; i < 6; i++)
			differs |= r.dmac[i] ^ eth->src[i] | r.smac[i] ^ eth->dst[i];
	}
	return !differs;
}

// answer answers a packet that is for dnsd, or says why not.
INLINE int answer(struct __sk_buff *skb, u32 l2, struct front *f, const struct state *st, struct counts *c)
{
	struct headers *h = &f->h;
	u32 udp_len = BE16(h->udp_len_be), at = l2 + sizeof(*h), network_be;
	__builtin_memcpy(&network_be, (u8 *)h->src + 2, 4);
	u32 with_opt = h->additional_be == BE16(1);
	if (h->ip_len_be != h->udp_len_be || skb->len != l2 + 40 + udp_len || skb->gso_size || skb->vlan_present ||
	    h->flags_be & BE16(0xf800) || h->questions_be != BE16(1) || h->answers_be || h->authority_be ||
	    h->additional_be && !with_opt)
		return SHAPE;

	struct question q;
	struct opt o = {};
	u32 limit = 512, want_do = 0;
	u64 sum = 0;
	q.len = udp_len - 8 - 12 - (with_opt ? sizeof(o) : 0);
	q.name_len = q.len - 4;
	if (!read_question(skb, at, st->seed, network_be, &q) || q.tail[1] != BE16(1))
		return SHAPE;
	if (with_opt) {
		if (load_bytes(skb, at + q.len, &o, sizeof(o)) < 0 || o.name || o.type_be[0] || o.type_be[1] != 41 ||
		    o.version || o.len_be[0] || o.len_be[1])
			return SHAPE;
		limit = (u32)o.size_be[0] << 8 | o.size_be[1];
		limit = limit < 512 ? 512 : limit > st->limit ? st->limit : limit;
		want_do = o.flags_be[0] >> 7;
		// Bytes 0 to 10, of which 0, 1, 9 and 10 are zero; 16-bit words begin at even ones.
		sum = sum_at(fold_sum((u64)(o.type_be[1] | o.size_be[0] << 8) + (o.size_be[1] | o.rcode << 8) +
				      (u64)(o.flags_be[0] << 8) + o.flags_be[1]), q.len);
	}

	struct block *a = find(st, &q, network_be);
	if (!a)
		return MISS;
	if (!fresh(st, a))
		return STALE;
	u32 records_len = a->records_len, opt_len = with_opt ? a->opt_len : 0, from = 0;
	if (records_len == 0 || records_len > MAX_RECORDS || opt_len > MAX_OPT ||
	    12 + q.len + records_len + opt_len > limit)
		return SHAPE;

	// A packet that has not left this host has the sum of its pseudo-header in place of
	// its checksum, which a device is to complete (CHECKSUM_PARTIAL); any other has its
	// checksum. Where it could be either, or is neither, the socket knows.
	u64 addrs = 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
		addrs += (u64)h->src[i] + h->dst[i];
	u16 pseudo = fold_sum(addrs + h->udp_len_be + BE16(IPPROTO_UDP));
	sum += q.sum + h->id + h->flags_be + h->questions_be + h->additional_be;
	u32 whole = fold_sum(sum + pseudo + h->sport_be + h->dport_be + h->udp_len_be + h->udp_sum) == 0xffff;
	u32 partial = h->udp_sum == pseudo;
	if (whole == partial || !h->udp_sum)
		return SHAPE;

	u32 len = 8 + 12 + q.len + records_len + opt_len;
	if (!returns(skb, h, 40 + len, l2 ? &f->eth : 0))
		return ROUTE;
	if (a->turns > 1)
		from = random_u32() % a->turns * a->turn_len;
	if (from >= MAX_RECORDS)
		return SHAPE;

	// From here on it is answered.
	if (change_tail(skb, l2 + 40 + len, 0) < 0)
		return SHAPE;
	if (l2) {
		u8 mac[6];
		__builtin_memcpy(mac, f->eth.dst, 6);
		__builtin_memcpy(f->eth.dst, f->eth.src, 6);
		__builtin_memcpy(f->eth.src, mac, 6);
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		u32 addr = h->src[i];
		h->src[i] = h->dst[i];
		h->dst[i] = addr;
	}
	u16 port = h->sport_be;
	h->sport_be = h->dport_be;
	h->dport_be = port;
	h->ip_first = BE16(0x6000);
	h->ip_len_be = h->udp_len_be = BE16(len);
	h->ip_hops = 64;
	h->flags_be = a->flags_be | (h->flags_be & BE16(0x0100)); // RD comes back
	h->answers_be = a->answers_be;
	h->authority_be = a->authority_be;
	pseudo = fold_sum(addrs + h->udp_len_be + BE16(IPPROTO_UDP));
	if (partial) {
		h->udp_sum = pseudo;
	} else {
		sum = q.sum + pseudo + h->sport_be + h->dport_be + h->udp_len_be + h->id + h->flags_be + h->questions_be +
		      h->answers_be + h->authority_be + h->additional_be + sum_at(a->records_sum, q.len);
		if (with_opt)
			sum += sum_at(a->opt_sum[want_do], q.len + records_len);
		u16 s = ~fold_sum(sum);
		h->udp_sum = s ? s : 0xffff;
	}
	at += q.len;
	long err = l2 ? store_bytes(skb, 0, &f->eth, sizeof(f->eth) + sizeof(*h), 0) : store_bytes(skb, 0, h, sizeof(*h), 0);
	err |= store_bytes(skb, at, a->records + from, records_len, 0);
	if (opt_len)
		err |= store_bytes(skb, at + records_len, a->opt[want_do], opt_len, 0);
	if (err)
		return RESULTS; // change_tail has made room, so this does not happen
	if (a->counter < TYPES)
		c->types[a->counter]++;
	return HIT;
}

// handle looks whether a packet is for dnsd. Most are not.
INLINE int handle(struct __sk_buff *skb, u32 l2)
{
	struct front f = {};
	struct served to = {};
	u32 zero = 0;
	if (skb->protocol != BE16(ETH_P_IPV6) || skb->pkt_type != PACKET_HOST)
		return TCX_NEXT;
	if ((l2 ? load_bytes(skb, 0, &f.eth, sizeof(f.eth) + sizeof(f.h)) : load_bytes(skb, 0, &f.h, sizeof(f.h))) < 0)
		return TCX_NEXT;
	const u8 *src = (const u8 *)f.h.src;
	if (f.h.ip_next != IPPROTO_UDP || (f.h.ip_first & 0xf0) != 0x60 || src[0] != 0xfd || src[1] != 0xaa ||
	    !(src[2] | src[3] | src[4] | src[5]))
		return TCX_NEXT; // the network fdaa:0:0::/48 is the host's own, and no tenant's
	__builtin_memcpy(to.addr, f.h.dst, 16);
	to.port_be = f.h.dport_be;
	if (!map_lookup(&addresses, &to))
		return TCX_NEXT;
	struct state *st = map_lookup(&states, &zero);
	struct counts *c = map_lookup(&counters, &zero);
	if (!st || !c)
		return TCX_NEXT;
	int result = answer(skb, l2, &f, st, c);
	if (result >= RESULTS)
		return TCX_DROP;
	c->results[result]++;
	return result == HIT ? redirect(skb->ifindex, 0) : TCX_NEXT;
}

SECTION("tcx/ingress/ethernet") int ethernet(struct __sk_buff *skb) { return handle(skb, sizeof(struct ethernet)); }
SECTION("tcx/ingress/plain") int plain(struct __sk_buff *skb) { return handle(skb, 0); }

// Routes can be looked up by programs of a licence that goes with the kernel's only.
char SECTION("license") terms[] = "Dual MIT/GPL";
// Of this file, by which a test knows that the object is made from it.
char SECTION("source") source_sha256[] = SOURCE_SHA256;
