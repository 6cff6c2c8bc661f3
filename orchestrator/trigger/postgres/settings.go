package postgres

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	defaultPort = 5432
	// maxName is the longest identifier that PostgreSQL keeps (NAMEDATALEN), in bytes.
	maxName = 63
	// maxTables bounds the tables of one trigger: a database with more has a
	// publication for them.
	maxTables = 100
	// maxHost is the longest host name of the DNS, in bytes.
	maxHost = 253
)

// place is a database, and who Kiln is there. It is part of positions, so it
// names the secret and does not hold it.
type place struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Database string `json:"database"`
	User     string `json:"user"`
	SSLMode  string `json:"sslmode"`
	Secret   string `json:"secret,omitempty"` // name of the password's
}

// address is the database for people.
func (p place) address() string {
	return fmt.Sprintf("%s:%d/%s", p.Host, p.Port, p.Database)
}

// same says whether two places are one database.
func (p place) same(other place) bool { return p.address() == other.address() }

// table is the name of one as PostgreSQL keeps it: case matters, nothing is quoted.
type table struct{ schema, name string }

func (t table) String() string { return t.schema + "." + t.name }

// Kinds of changes, as the settings and publications name them.
const (
	opInsert   = "insert"
	opUpdate   = "update"
	opDelete   = "delete"
	opTruncate = "truncate"
)

var allOperations = []string{opInsert, opUpdate, opDelete, opTruncate}

// Values of order.
const (
	orderCommit = "commit"
	orderTable  = "table"
	orderNone   = "none"
)

// spec is a trigger's settings.
type spec struct {
	place       place
	tables      []table  // what a publication of Kiln's own has; empty = publication or channel
	publication string   // one that somebody else keeps
	slot        string   // one that somebody else keeps; empty = Kiln's own
	channel     string   // of NOTIFY
	operations  []string // sorted
	order       string
}

// slotSyntax is that of replication slots.
var slotSyntax = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func read(trigger orchestrator.Trigger) (spec, error) {
	r := trigger.Settings.Reader()
	s := spec{place: readPlace(r), channel: r.Text("channel", ""), publication: r.Text("publication", "")}
	for _, name := range r.Texts("tables", maxTables) {
		s.tables = append(s.tables, readTable(r, name))
	}
	given := 0
	for _, is := range []bool{len(s.tables) > 0, s.publication != "", s.channel != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		r.Refuse("tables", "give one of tables: [orders], publication: NAME and channel: NAME", "there are %d of tables, publication and channel", given)
	}
	for name, value := range map[string]string{"channel": s.channel, "publication": s.publication} {
		if len(value) > maxName || strings.ContainsRune(value, 0) {
			r.Refuse(name, "shorten it", "has more than %d bytes", maxName)
		}
	}
	if s.channel != "" {
		return s, r.Err()
	}
	s.slot = r.Text("slot", "")
	if s.slot != "" && !slotSyntax.MatchString(s.slot) {
		r.Refuse("slot", "use a-z, 0-9 and _", "%.80q is no name of a replication slot", s.slot)
	}
	s.order = r.Choice("order", orderCommit, orderTable, orderNone)
	s.operations = r.Texts("operations", len(allOperations))
	for _, operation := range s.operations {
		if !slices.Contains(allOperations, operation) {
			r.Refuse("operations", "write some of "+strings.Join(allOperations, ", "), "cannot have %.80q", operation)
		}
	}
	if len(s.operations) == 0 {
		s.operations = slices.Clone(allOperations)
	}
	slices.Sort(s.operations)
	s.operations = slices.Compact(s.operations)
	return s, r.Err()
}

// readPlace reads where the database is: as a URL, or in parts.
func readPlace(r *orchestrator.SettingsReader) place {
	p := place{Port: defaultPort, SSLMode: "prefer", Secret: r.Text("secret", "")}
	modes := []string{"prefer", "disable", "require", "verify-full"}
	if r.Has("url") {
		readURL(r, r.Text("url", ""), &p, modes)
	} else {
		p.Host = r.Required("host", "host: db.example.com, or url: postgres://USER@HOST/DATABASE")
		p.Port = r.Int("port", defaultPort, 1, 65535)
		p.Database = r.Required("database", "database: NAME")
		p.User = r.Required("user", "user: NAME")
		p.SSLMode = r.Choice("sslmode", modes...)
	}
	name := "host"
	if r.Has("url") {
		name = "url"
	}
	// A socket's path, and a list of hosts, mean something else to the client
	// library; who comes through a socket of this machine may be let in unasked.
	if p.Host != "" && (len(p.Host) > maxHost || strings.ContainsAny(p.Host, "/\\,@ \x00")) {
		r.Refuse(name, "write one name or address that TCP reaches", "%.80q is no host", p.Host)
	}
	for _, part := range []string{p.Database, p.User} {
		if len(part) > maxName || strings.ContainsRune(part, 0) {
			r.Refuse(name, "write the names as PostgreSQL has them", "a name has more than %d bytes", maxName)
		}
	}
	return p
}

const urlExample = "write postgres://USER@HOST:5432/DATABASE?sslmode=require"

func readURL(r *orchestrator.SettingsReader, text string, p *place, modes []string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Hostname() == "" || u.User.Username() == "" || len(u.Path) < 2 {
		r.Refuse("url", urlExample, "is no URL of a database") // without the text: it may hold a password
		return
	}
	if _, has := u.User.Password(); has {
		r.Refuse("url", "put the password into a secret and write secret: NAME", "holds a password")
		return
	}
	p.Host, p.User, p.Database = u.Hostname(), u.User.Username(), u.Path[1:]
	if port := u.Port(); port != "" {
		if p.Port, err = strconv.Atoi(port); err != nil || p.Port < 1 || p.Port > 65535 {
			r.Refuse("url", urlExample, "has no port that can be")
		}
	}
	for name, values := range u.Query() {
		if name != "sslmode" || len(values) != 1 || !slices.Contains(modes, values[0]) {
			r.Refuse("url", "of parameters there is sslmode: "+strings.Join(modes, ", "), "has the parameter %.40q", name)
			return
		}
		p.SSLMode = values[0]
	}
}

// readTable takes the name of a table apart. Everything behind the first dot is
// the name.
func readTable(r *orchestrator.SettingsReader, text string) table {
	t := table{"public", text}
	if schema, name, ok := strings.Cut(text, "."); ok {
		t = table{schema, name}
	}
	if t.schema == "" || t.name == "" || len(t.schema) > maxName || len(t.name) > maxName || strings.ContainsRune(text, 0) {
		r.Refuse("tables", "write for example [orders, billing.invoices]", "%.80q is no name of a table", text)
	}
	return t
}
