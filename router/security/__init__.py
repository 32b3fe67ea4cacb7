"""Who may do what at the router: certificates, keys, tenants and their quotas."""
