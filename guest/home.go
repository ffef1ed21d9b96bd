package guest

// Home is what a guest has of its host's user. Nothing in it is secret, unless a proxy's
// address has a password.
type Home struct {
	Name string `json:"name,omitempty"` // for git: user.name
	Mail string `json:"mail,omitempty"` // user.email
	// Zone is the time zone's name, "Europe/Berlin", and ZoneFile its rules (tzfile(5)), for
	// guests that don't know it.
	Zone     string `json:"zone,omitempty"`
	ZoneFile []byte `json:"zone_file,omitempty"`
	Lang     string `json:"lang,omitempty"` // "de_DE.UTF-8"; taken where the guest has it
	// Proxy are variables such as https_proxy=URL, for commands.
	Proxy []string `json:"proxy,omitempty"`
	// Certificates are further authorities that programs trust, as PEM.
	Certificates string `json:"certificates,omitempty"`
}
