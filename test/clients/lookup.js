// Resolves a name with Node's two resolvers, c-ares and the C library's, and
// prints the addresses once both agree; or the text of a TXT record.
const dns = require('dns').promises;
const [name, type] = process.argv.slice(2);

async function main() {
  if (type === 'TXT') {
    for (const strings of await dns.resolveTxt(name)) console.log(strings.join(''));
    return;
  }
  const asked = (await dns.resolve6(name)).sort();
  const looked = (await dns.lookup(name, { all: true, family: 0 })).map((a) => a.address).sort();
  if (asked.join() !== looked.join()) throw new Error(`resolve6 ${asked}, lookup ${looked}`);
  console.log(asked.join('\n'));
}

main().catch((err) => { console.error(String(err)); process.exit(1); });
