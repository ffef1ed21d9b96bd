package bridge

import (
	"bytes"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Obstacles returns the chains of other tables that drop routed packets by default, as
// Docker's do, and have no rule for the bridge of this name. nftables asks every table,
// so they drop what our table accepts.
func Obstacles(name string) ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, ch := range chains {
		inet := ch.Table.Family == nftables.TableFamilyIPv4 || ch.Table.Family == nftables.TableFamilyINet
		if !inet || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		knows, err := mentions(c, chains, ch.Table, name)
		if err != nil {
			return nil, err
		}
		if !knows {
			family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"}[ch.Table.Family]
			list = append(list, fmt.Sprintf("chain %s of table %s %s", ch.Name, family, ch.Table.Name))
		}
	}
	return list, nil
}

// mentions reports whether a rule of a table compares something with the name of a link.
func mentions(c *nftables.Conn, chains []*nftables.Chain, t *nftables.Table, name string) (bool, error) {
	for _, ch := range chains {
		if ch.Table.Family != t.Family || ch.Table.Name != t.Name {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return false, err
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if cmp, ok := e.(*expr.Cmp); ok && string(bytes.TrimRight(cmp.Data, "\x00")) == name {
					return true, nil
				}
			}
		}
	}
	return false, nil
}
