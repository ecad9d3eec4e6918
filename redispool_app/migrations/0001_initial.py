"""Creates the permissions to view and to reset pools; the model has no table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="RedisPool",
            fields=[
                (
                    "alias",
                    models.CharField(max_length=64, primary_key=True, serialize=False, verbose_name="alias"),
                ),
            ],
            options={
                "verbose_name": "Redis pool",
                "verbose_name_plural": "Redis pools",
                "permissions": [("reset_redispool", "Can reset Redis pools")],
                "managed": False,
                "default_permissions": ("view",),
                "base_manager_name": "objects",
            },
        ),
    ]
