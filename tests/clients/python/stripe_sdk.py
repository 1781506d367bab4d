"""Stripe's package, as its documentation uses it. It trusts the roots it ships with, whatever the
environment says."""
import os

import stripe

print("version", stripe.VERSION)
client = stripe.StripeClient(os.environ["STRIPE_API_KEY"])
print("key", os.environ["STRIPE_API_KEY"])
customers = client.v1.customers.list()
print("customers", [customer.email for customer in customers.data])
try:
    client.v1.balance.retrieve()
except stripe.StripeError as error:
    print("refused", type(error).__name__, error.http_status, error.user_message or error.http_body)
