"""Who am I, as the AWS CLI asks: with its cache of assumed roles. argv: profile, endpoint, the code or nothing."""

import os
import sys

import botocore.credentials
import botocore.session
from botocore.utils import JSONFileCache

profile, endpoint, code = sys.argv[1:]
session = botocore.session.Session(profile=profile)
provider = session.get_component("credential_provider").get_provider("assume-role")
provider.cache = JSONFileCache(os.path.expanduser("~/.aws/cli/cache"))


def prompter(text):
    print("asked:", text, file=sys.stderr)
    if not code:
        raise SystemExit("nobody is there to be asked")
    return code


provider._prompter = prompter
# Versions of this age know no AWS_ENDPOINT_URL.
create_client = session.create_client
session.create_client = lambda *a, **k: create_client(*a, **{"endpoint_url": endpoint, **k})
provider._client_creator = session.create_client
print(session.create_client("sts").get_caller_identity()["Arn"])
